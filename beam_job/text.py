"""Small helpers for text that people read."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""`text` with every character that a terminal would obey or hide written out, as `\x1b` for an escape.

    That is control characters, marks that turn the direction of writing, blanks other than the plain one and halves of
    characters. A line break is one of them; `printable_lines` keeps those.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def printable_lines(text: str) -> str:
    """The same, line by line."""
    return "\n".join(map(printable, text.split("\n")))


def counted(number: int, noun: str) -> str:
    """`1 image`, `2,000 images`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
