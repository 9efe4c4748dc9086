"""The columns that `--carry_columns` names: `COLUMN`, or `NAME=COLUMN` for another name in the output."""

from __future__ import annotations

from collections.abc import Sequence


def carried_names(given: Sequence[str]) -> tuple[str, ...]:
    """What the carried columns are called in the output."""
    return tuple(each.partition("=")[0] for each in given)


def carried_sources(given: Sequence[str]) -> tuple[str, ...]:
    """What they are called in the lists."""
    return tuple(each.partition("=")[2] or each for each in given)
