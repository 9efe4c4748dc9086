"""The `--allow_...` options, shared by the job and `export`."""

from __future__ import annotations

import argparse


def add_allowed_options(group: argparse._ArgumentGroup) -> None:
    """Adds the options for what a list may name."""
    group.add_argument(
        "--allow_schemes",
        action=CommaSeparated,
        default=(),
        metavar="NAMES",
        help="schemes that lists may name, such as http,https (default: those of the inputs)",
    )
    group.add_argument(
        "--allow_root",
        action=Repeated,
        default=(),
        metavar="FOLDER",
        help="read local files below this folder; links that lead out of it are not followed (default: the list's own "
        "folder, or the folder or glob given); may be repeated",
    )
    group.add_argument(
        "--allow_buckets",
        action=CommaSeparated,
        default=(),
        metavar="NAMES",
        help="buckets that lists may name, such as gs://photos (default: the bucket of the list)",
    )
    group.add_argument(
        "--allow_private_addresses",
        action="store_true",
        help="read from web servers of this machine and of private networks, such as an intranet",
    )


class Repeated(argparse.Action):
    """Collects `--name=a --name=b` in a tuple."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option: object = None
    ) -> None:
        setattr(namespace, self.dest, (*getattr(namespace, self.dest), str(values)))


class CommaSeparated(argparse.Action):
    """Collects `--name=a,b`, which may be repeated, in a tuple."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option: object = None
    ) -> None:
        parts = tuple(part for part in str(values).split(",") if part)
        setattr(namespace, self.dest, (*getattr(namespace, self.dest), *parts))
