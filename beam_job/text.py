"""Small helpers for text that people read."""

from __future__ import annotations

import os


def command_name() -> str:
    """How the user starts this program, for hints: `caption-images`, unless a script such as `run_local.sh` does."""
    return printable(os.environ.get("CAPTION_IMAGES_COMMAND") or "caption-images")


def printable(text: str) -> str:
    r"""`text` with every character that a terminal would interpret or hide escaped, such as `\x1b`.

    These are control characters, line breaks included (`printable_lines` keeps them), marks that change the direction
    of writing, spaces other than the ordinary one, and lone surrogates.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def printable_lines(text: str) -> str:
    """`printable` for each line; line breaks are kept."""
    return "\n".join(map(printable, text.split("\n")))


def counted(number: int, noun: str) -> str:
    """`1 image`, `2,000 images`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
