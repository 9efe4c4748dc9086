"""What the parsers of several commands share: the options that say what may be read, and one-line usage errors."""

from __future__ import annotations

import argparse
import difflib
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from beam_job.storage import USER_AGENT
from beam_job.text import printable

# argparse's words, and ours.
_CHOICE = re.compile(r"argument (\S+): invalid choice: (.*) \(choose from (.*)\)")
_NO_VALUE = re.compile(r"argument (\S+): expected (?:one|at least one) argument")
_FLAG = re.compile(r"argument (\S+): ignored explicit argument (.*)")
_NO_NUMBER = re.compile(r"argument (\S+): invalid (int|float) value: (.*)")
_ARGUMENT = re.compile(r"argument (\S+):")


class CommandParser(argparse.ArgumentParser):
    """A parser whose usage errors are one line, with a suggestion for a misspelt option; they exit with 2.

    Options cannot be abbreviated, and the description and epilog are shown as written.

    Args:
      prog: the command, such as "caption-images status".
      options: of `argparse.ArgumentParser`.
    """

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog=prog, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)
        self._given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        self._given = sys.argv[1:] if args is None else args
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        line = printable(self.in_plain_words(message))
        logger = logging.getLogger("beam_job")
        if logger.handlers:  # the command writes it in its log format
            logger.error(line)
            self.exit(2)
        self.exit(2, f"{self.prog.split()[0]}: {line}\n")

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
    return f"{names[0]} is required" if len(names) == 1 else f"{' and '.join(names)} are required"


def add_allowed_options(group: argparse._ArgumentGroup) -> None:
    """Adds the options that widen what may be read; `export` reads images too."""
    group.add_argument(
        "--allow_schemes",
        action=CommaSeparated,
        default=(),
        metavar="NAMES",
        help="schemes, separated by commas, such as http,https (default: those of the inputs)",
    )
    group.add_argument(
        "--allow_root",
        action=Repeated,
        default=(),
        metavar="FOLDER",
        help="local files below FOLDER, as long as no symbolic link leads out of it (default: the folder of the list, "
        "and folders and globs given as inputs); repeatable",
    )
    group.add_argument(
        "--allow_buckets",
        action=CommaSeparated,
        default=(),
        metavar="NAMES",
        help="buckets, separated by commas, such as gs://photos (default: the bucket of the list)",
    )
    group.add_argument(
        "--allow_private_addresses",
        action="store_true",
        help="web servers on this machine and in private networks, such as an intranet",
    )


def add_access_options(group: argparse._ActionsContainer) -> None:
    """Adds the options that say in whose name storages are asked."""
    group.add_argument(
        "--user_agent",
        default=USER_AGENT,
        metavar="TEXT",
        help="what web servers see as the program that asks (default: %(default)s)",
    )
    group.add_argument(
        "--billing_project",
        metavar="PROJECT",
        help="the Google Cloud project that pays for reading buckets with requester pays",
    )


class Repeated(argparse.Action):
    """Collects the values of `--name=a --name=b` in a tuple."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option: object = None
    ) -> None:
        setattr(namespace, self.dest, (*getattr(namespace, self.dest), str(values)))


class CommaSeparated(argparse.Action):
    """Collects the values of `--name=a,b --name=c` in a tuple."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option: object = None
    ) -> None:
        parts = tuple(part for part in str(values).split(",") if part)
        setattr(namespace, self.dest, (*getattr(namespace, self.dest), *parts))
