"""Options that say what may be read, shared by the job and `export`."""

from __future__ import annotations

import argparse


def add_allowed_options(group: argparse._ArgumentGroup) -> None:
    """What a list may name; `export` reads images too."""
    group.add_argument(
        "--allow_schemes",
        action=CommaSeparated,
        default=(),
        metavar="NAMES",
        help="such as http,https (without it, those of the inputs)",
    )
    group.add_argument(
        "--allow_root",
        action=Repeated,
        default=(),
        metavar="FOLDER",
        help="local files below this one, which links do not lead out of (without it, below the list's own folder, or "
        "the folder or glob given); may be given several times",
    )
    group.add_argument(
        "--allow_buckets",
        action=CommaSeparated,
        default=(),
        metavar="NAMES",
        help="such as gs://photos (without it, the bucket that the list lies in)",
    )
    group.add_argument(
        "--allow_private_addresses",
        action="store_true",
        help="web servers of this machine and of private networks, as in an intranet",
    )


class Repeated(argparse.Action):
    """`--name=a --name=b`: a tuple of all."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option: object = None
    ) -> None:
        setattr(namespace, self.dest, (*getattr(namespace, self.dest), str(values)))


class CommaSeparated(argparse.Action):
    """`--name=a,b`, and repeated: a tuple of all."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option: object = None
    ) -> None:
        parts = tuple(part for part in str(values).split(",") if part)
        setattr(namespace, self.dest, (*getattr(namespace, self.dest), *parts))
