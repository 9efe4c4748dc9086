"""A folder as people have them: photographs, and files that are none."""

from __future__ import annotations

from pathlib import Path

GOOD = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "china.jpg", "flower.jpg")


def fill(root: Path, photographs: dict[str, Path]) -> Path:
    """Six photographs, three files that are none, and one image below."""
    (root / "sub").mkdir(parents=True)
    for name in GOOD[:-1]:
        (root / name).write_bytes(photographs[name].read_bytes())
    (root / "sub" / GOOD[-1]).write_bytes(photographs[GOOD[-1]].read_bytes())
    (root / "text.jpg").write_text("hello, I am a text file")
    (root / "empty.jpg").touch()
    (root / "truncated.jpg").write_bytes(photographs["rocket.jpg"].read_bytes()[:5000])
    return root
