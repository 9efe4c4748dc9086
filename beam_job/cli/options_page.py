"""Generates `docs/options.md` from the parser: `python -m beam_job.cli.options_page > docs/options.md`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from beam_job.cli.options import job_parser

_INTRODUCTION = """\
# Options

These are the options of `caption-images`, as in `caption-images --help`. Options that the job does not define are
passed to Beam. `caption-images COMMAND --help` shows the options of `status`, `snapshot`, `export`, `review`, `correct`
and `demo`.

This page is generated. After changing the parser run `python -m beam_job.cli.options_page > docs/options.md`.
"""
_DEFAULT = " (default: %(default)s)"


def options_page() -> str:
    """Returns the page in Markdown, with a table for each group of options."""
    tables = ["\n".join(_table(group)) for group in job_parser()._action_groups if _documented(group)]
    return "\n".join([_INTRODUCTION, *(f"{table}\n" for table in tables)]).rstrip("\n") + "\n"


def _documented(group: argparse._ArgumentGroup) -> list[argparse.Action]:
    """The group's options without --help, which needs no documentation."""
    return [action for action in group._group_actions if action.option_strings and action.dest != "help"]


def _table(group: argparse._ArgumentGroup) -> Iterator[str]:
    title = str(group.title)
    yield f"## {title[0].upper()}{title[1:]}"
    yield ""
    yield "| option | default | meaning |"
    yield "|---|---|---|"
    for action in _documented(group):
        yield f"| `{_usage(action)}` | {_default(action)} | {_cell(_meaning(action))} |"


def _usage(action: argparse.Action) -> str:
    """`--name`, with the placeholder of its value or its choices."""
    name = action.option_strings[-1]
    if action.nargs == 0:
        return name
    return f"{name}={action.metavar or '|'.join(map(str, action.choices or ()))}".replace("|", r"\|")


def _default(action: argparse.Action) -> str:
    """The value; empty for flags and for options whose text says what happens without them."""
    if action.nargs == 0 or action.default in (None, ()):
        return ""
    return f"`{action.default}`"


def _meaning(action: argparse.Action) -> str:
    return (action.help or "").replace(_DEFAULT, "") % vars(action)


def _cell(text: str) -> str:
    """Text for a cell of a table, where `|` ends a cell and `*` begins emphasis."""
    for character in r"|*<":
        text = text.replace(character, f"\\{character}")
    return text


if __name__ == "__main__":
    print(options_page(), end="")
