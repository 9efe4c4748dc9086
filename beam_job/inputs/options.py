"""Shared parts of the command parsers: the options that say what may be read, and one-line usage errors."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from typing import Any, NoReturn

from beam_job.storage import USER_AGENT
from beam_job.text import printable
from model.one_line_parser import OneLineParser

_HOME = re.compile(r"^(--\w+=)(~(?:/.*)?)$", re.DOTALL)


def _expanded(match: re.Match[str]) -> str:
    return match[1] + os.path.expanduser(match[2])


class CommandParser(OneLineParser):
    """A parser of `caption-images` or one of its commands; its errors go to the log, in the log's format.

    `~` stands for the home folder in `--input=~/photos` too, where no shell replaces it.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        given = sys.argv[1:] if args is None else args
        return super().parse_known_args([_HOME.sub(_expanded, argument) for argument in given], namespace)

    def refuse(self, line: str) -> NoReturn:
        line, logger = printable(line), logging.getLogger("beam_job")
        if logger.handlers:
            logger.error(line)
            self.exit(2)
        self.exit(2, f"{self.prog.split()[0]}: {line}\n")


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
    """Adds the options for requests to storages: the user agent, and the project that is billed."""
    group.add_argument(
        "--user_agent",
        default=USER_AGENT,
        metavar="TEXT",
        help="User-Agent header sent to web servers (default: %(default)s)",
    )
    group.add_argument(
        "--billing_project",
        metavar="PROJECT",
        help="Google Cloud project that is billed for reading requester-pays buckets",
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
