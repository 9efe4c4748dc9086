"""Names that files may have, and that their readers may not expect."""

from __future__ import annotations

# In a folder, or (with #) in a tar; each has pixels of its own.
NAMES = (
    "a/dog.png",
    "b/dog.png",
    "b/../c/dog.png",
    "=cmd|' /C calc'!A0.png",
    "two\nlines.png",
    "<img src=x onerror=alert(1)>.png",
    "-rf.png",
    ".hidden.png",
    "CON.png",
    "猫.png",
    "no suffix",
    "lying.jpg",
    f"{'x' * 240}.png",
    "set.tar#in/dog.png",
    "set.tar#../../../escaped.png",
)
