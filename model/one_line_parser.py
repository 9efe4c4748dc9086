"""A parser whose usage errors are one line, shared by all commands of this project."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

# argparse's words, and ours.
_CHOICE = re.compile(r"argument (\S+): invalid choice: (.*) \(choose from (.*)\)")
_NO_VALUE = re.compile(r"argument (\S+): expected (?:one|at least one) argument")
_FLAG = re.compile(r"argument (\S+): ignored explicit argument (.*)")
_NO_NUMBER = re.compile(r"argument (\S+): invalid (int|float) value: (.*)")
_ARGUMENT = re.compile(r"argument (\S+):")


class OneLineParser(argparse.ArgumentParser):
    """A parser whose usage errors are one line, with a suggestion for a misspelt option; they exit with 2.

    Options cannot be abbreviated, and the description and epilog are shown as written.

    Args:
      prog: the command, such as "python -m model train".
      options: of `argparse.ArgumentParser`.
    """

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog=prog, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)
        self._given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        self._given = sys.argv[1:] if args is None else args
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        self.refuse(self.in_plain_words(message))

    def refuse(self, line: str) -> NoReturn:
        """Prints why the arguments are refused, in a line, and exits with 2."""
        self.exit(2, f"{self.prog.removeprefix('python -m ')}: {line}\n")

    def in_plain_words(self, message: str) -> str:
        """One of argparse's error messages, in this project's words."""
        subject, _, rest = message.partition(": ")
        if subject == "the following arguments are required":
            required = rest.split(", ")
            return next(self._misspelt(self._given, required), f"{_listed(required)}; see {self.prog} --help")
        if subject == "unrecognized arguments":
            near = next(self._misspelt(self._given, list(self._option_string_actions)), None)
            return near or f"unknown argument {rest}; see {self.prog} --help"
        if match := _CHOICE.fullmatch(message):
            return f"{match[1]} must be one of {match[3].replace(chr(39), '')}, not {match[2]}"
        if match := _NO_VALUE.fullmatch(message):
            return f"{match[1]} needs a value"
        if match := _FLAG.fullmatch(message):
            return f"{match[1]} takes no value, not {match[2]}"
        if match := _NO_NUMBER.fullmatch(message):
            return f"{match[1]} must be a {'whole number' if match[2] == 'int' else 'number'}, not {match[3]}"
        return _ARGUMENT.sub(r"\1", message, count=1)

    def _misspelt(self, given: Sequence[str], wanted: Sequence[str]) -> Iterator[str]:
        """A line for each unknown option that resembles one of those that are `wanted`."""
        for argument in given:
            name = argument.partition("=")[0]
            if not name.startswith("-") or name in self._option_string_actions:
                continue
            plain = "--" + name.lower().lstrip("-").replace("-", "_")
            if near := difflib.get_close_matches(plain, wanted, n=1):
                yield f"unknown option {name}; did you mean {near[0]}?"


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last} are required" if first else f"{last} is required"
