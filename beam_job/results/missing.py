"""Images that were captioned and no longer exist."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from beam_job.inputs.filters import UNREADABLE_FOLDER
from beam_job.inputs.tars import container_of
from beam_job.results.latest_rows import LatestRows, read_rows
from beam_job.storage import StorageError, local_path, public_name, scheme_of, storage_for
from beam_job.storage.base import SCHEME
from beam_job.text import counted, printable

SKIP, KEEP, FAIL = CHOICES = ("skip", "keep", "fail")
# Names of the errors of reading one.
MISSING_ERRORS = ("FileNotFoundError", "NotFound", "NotADirectoryError")
_ASKED = ("file", "gs", "s3")
_ROW = re.compile(r"(.*)#row=\d+", re.DOTALL)  # of a list that holds images
_THREADS = 32


class MissingImagesError(Exception):
    """Images are missing, with --missing=fail, or all of them are, as when a disk is not mounted."""


def add_missing(parser: argparse.ArgumentParser, default: str | None, explained: str = "") -> None:
    """Adds the option --missing; `explained` says what the default is if it is not a value."""
    parser.add_argument(
        "--missing",
        choices=CHOICES,
        default=default,
        help="captions whose file or object no longer exists: skip leaves them out, keep does not look, fail writes "
        f"nothing and ends with 1 (default: {explained or default})",
    )


def format_missing(count: int) -> str:
    """`2 captions of images that no longer exist`."""
    return f"{counted(count, 'caption')} of images that no longer exist"


def report_missing(error: MissingImagesError) -> int:
    """Prints the error; returns the exit code."""
    print(f"caption-images: {printable(str(error))}", file=sys.stderr)
    return 1


def check_missing(latest: LatestRows, missing: str) -> set[str]:
    """The URIs of captions to leave out, since their image no longer exists.

    Args:
      latest: the current rows.
      missing: one of `CHOICES`.

    Raises:
      MissingImagesError: there are some and `missing` is "fail", or none of many exists.
      StorageError: a file of captions cannot be read.
    """
    if missing == KEEP:
        return set()
    gone = find_missing(captioned_uris(latest))
    if gone and (missing == FAIL or len(gone) == latest.captions.num_rows):
        head = format_missing(len(gone))
        hint = "" if missing == FAIL else "; these are all: is their disk mounted? --missing=keep writes them"
        raise MissingImagesError(f"nothing was written: {head}, such as {public_name(min(gone))}{hint}")
    return gone


def without_captions(latest: LatestRows, uris: Collection[str]) -> LatestRows:
    """The same rows without the captions of these URIs."""
    if not uris:
        return latest
    kept = [pa.table({"part": pa.array([], pa.int32()), "row": pa.array([], pa.int32())})]
    names = pa.array(list(uris), pa.string())
    for part in pc.unique(latest.captions["part"]).to_pylist():
        positions = latest.captions.filter(pc.equal(latest.captions["part"], part))
        found = read_rows(latest.caption_parts, latest.captions, part)["uri"].cast(pa.string())
        kept.append(positions.filter(pc.invert(pc.is_in(found, names))))
    return dataclasses.replace(latest, captions=pa.concat_tables(kept))


def captioned_uris(latest: LatestRows) -> Iterator[str]:
    """The URIs that have a caption now."""
    for part in pc.unique(latest.captions["part"]).to_pylist():
        yield from read_rows(latest.caption_parts, latest.captions, part)["uri"].to_pylist()


def find_missing(uris: Iterable[str]) -> set[str]:
    """Those whose file or object does not exist.

    Web addresses are not asked, and names that are not absolute cannot be: nobody knows where they were given.
    """
    asked = [uri for uri in uris if scheme_of(uri) in _ASKED and (SCHEME.match(uri) or os.path.isabs(uri))]
    with ThreadPoolExecutor(_THREADS) as threads:
        return {uri for uri, gone in zip(asked, threads.map(_is_missing, asked), strict=True) if gone}


def find_obsolete(failures: Iterable[tuple[str, str]]) -> set[str]:
    """The URIs of failures (URI, error type) whose file no longer exists, or whose folder can be read now.

    A file that was not there when it failed is no such: a list may still name it.
    """
    types = {uri: error_type for uri, error_type in failures if error_type not in MISSING_ERRORS}
    readable = {uri for uri, error_type in types.items() if error_type == UNREADABLE_FOLDER and _can_list(uri)}
    return find_missing(types) | readable


def _can_list(folder: str) -> bool:
    return os.access(local_path(folder), os.R_OK | os.X_OK)


def _is_missing(uri: str) -> bool:
    file = container_of(uri)
    row = _ROW.fullmatch(file)
    try:
        storage = storage_for(file)
        return not (storage.exists(file) or (row and storage.exists(row[1])))
    except StorageError:
        return False
