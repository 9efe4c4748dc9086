"""Shared parts of the commands that read an output: options, and one-line errors."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from beam_job.inputs.options import CommandParser, add_access_options
from beam_job.storage import Access, use_access
from beam_job.text import printable

Main = Callable[[list[str]], int]


class UsageError(ValueError):
    """The arguments are wrong; the message says what to do."""


def refuse_wrong_usage(main: Main) -> Main:
    """Makes `main` print a UsageError as one line and return 2."""

    @functools.wraps(main)
    def refusing(arguments: list[str]) -> int:
        try:
            return main(arguments)
        except UsageError as error:
            print(f"caption-images: {printable(str(error))}", file=sys.stderr)
            return 2

    return refusing


class OutputParser(CommandParser):
    """The parser of a `caption-images COMMAND` that reads an output; what is wrong is raised as a UsageError."""

    def __init__(self, command: str, description: str, epilog: str | None = None) -> None:
        super().__init__(f"caption-images {command}", description=description, epilog=epilog)
        self.add_argument("--output", required=True, type=_folder, metavar="FOLDER", help="the job's output folder")
        add_access_options(self)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The options; from now on, this process asks storages as they say."""
        found = super().parse_args(args, namespace)
        try:
            use_access(Access(found.user_agent, billing_project=found.billing_project or ""))
        except ValueError as error:
            raise UsageError(str(error)) from error
        return found

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        reason = self.in_plain_words(message)
        hint = f"; see {self.prog} --help"
        raise UsageError(reason if hint in reason else reason + hint)


def whole_number(text: str) -> int:
    """An option's value from 1 up."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text!r}")
    return value


def report_left_out(lines: Iterable[str]) -> int:
    """Prints a line on stderr for each file that was left out; returns the exit code, 1 if there is any."""
    code = 0
    for line in lines:
        print(f"caption-images: left out: {printable(line)}", file=sys.stderr)
        code = 1
    return code


def _folder(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; name the job's output folder")
    return text
