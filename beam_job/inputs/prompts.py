"""Named prompts for captioners, with columns of the user's lists filled in for each picture."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UNNAMED = "caption"
_NAMED = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")  # a brace that is meant, a column, or a brace too many


@dataclass(frozen=True)
class Prompt:
    """A named prompt; an invalid one raises ValueError.

    Attributes:
      name: name of its caption; `UNNAMED` if the user gave none.
      text: with `{column}` for values of carried columns, and `{{` and `}}` for braces.
    """

    name: str
    text: str

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError(f"--prompt must not be empty ({self.name})")
        for match in _PART.finditer(self.text):
            if match[0] in ("{", "}") or match[1] == "":
                raise ValueError(
                    f"--prompt: {self.text!r:.80} has a brace without a column; write {{column}} for a carried column, "
                    "{{ and }} for braces"
                )

    @property
    def columns(self) -> tuple[str, ...]:
        """The carried columns that it names."""
        return tuple(match[1] for match in _PART.finditer(self.text) if match[1] is not None)

    @property
    def own_columns(self) -> tuple[str, ...]:
        """The output columns of its caption and score, in addition to `caption` and `score` (the first prompt's)."""
        return () if self.name == UNNAMED else (f"caption_{self.name}", f"score_{self.name}")

    def filled(self, columns: Mapping[str, Any]) -> str:
        """The text for a picture with these columns; null becomes an empty text."""

        def part(match: re.Match[str]) -> str:
            if match[1] is None:
                return match[0][0]
            value = columns[match[1]]
            return "" if value is None else str(value)

        return _PART.sub(part, self.text)


def parse_prompt(given: str) -> Prompt:
    """The prompt of an option `--prompt=[NAME=]TEXT` or `--prompt=[NAME=]@FILE`.

    Raises:
      ValueError: it is empty, or the file cannot be read.
    """
    named = _NAMED.fullmatch(given)
    name, text = (named[1], named[2]) if named else (UNNAMED, given)
    if not text.startswith("@"):
        return Prompt(name, text)
    try:
        return Prompt(name, Path(text[1:]).read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ValueError(f"--prompt: the file {text[1:]!r} cannot be read: {reason}") from error


def check_prompts(prompts: Sequence[Prompt], carry_columns: Iterable[str]) -> None:
    """Checks the prompts of a job together.

    Raises:
      ValueError: two have one name, only some have a name, or one names a column that is not carried.
    """
    names = [prompt.name for prompt in prompts]
    for name in names:
        if names.count(name) > 1:
            both = "has no name" if name == UNNAMED else f"is named {name!r}"
            raise ValueError(
                f"--prompt: more than one {both}; give each its own, as in --prompt short='Say it in brief'"
            )
    if UNNAMED in names[1:]:
        raise ValueError("--prompt: only the first of several prompts may be without a name; write NAME=TEXT")
    carried = set(carry_columns)
    for prompt in prompts:
        for column in prompt.columns:
            if column not in carried:
                raise ValueError(f"--prompt names the column {column!r}, which is not among --carry_columns")
        for column in prompt.own_columns:
            if column in carried:
                raise ValueError(f"--carry_columns names {column!r}, which is the column of a prompt's caption")
