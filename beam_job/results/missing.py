"""Images that were captioned and no longer exist."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from beam_job.inputs.filters import UNREADABLE_FOLDER
from beam_job.inputs.packed import Place
from beam_job.inputs.tars import container_of
from beam_job.planning.plan import read_plan_columns
from beam_job.results.latest_rows import LatestRows, Part, read_rows
from beam_job.results.readable_runs import read_readable_runs
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
    """Images are missing, with --missing=fail, or all images are missing, for example because a disk is not mounted."""


def add_missing(parser: argparse.ArgumentParser, default: str | None, explained: str = "") -> None:
    """Adds the option --missing; `explained` says what the default is if it is not a value."""
    parser.add_argument(
        "--missing",
        choices=CHOICES,
        default=default,
        help="what to do with captions and failures whose file or object no longer exists: skip leaves them out, keep "
        "does not check, fail writes nothing and exits with 1 if there are such captions "
        f"(default: {explained or default})",
    )


def format_missing(count: int) -> str:
    """`2 captions of images that no longer exist`."""
    return f"{counted(count, 'caption')} of images that no longer exist"


def report_missing(error: MissingImagesError) -> int:
    """Prints the error; returns the exit code."""
    print(f"caption-images: {printable(str(error))}", file=sys.stderr)
    return 1


def check_missing(output: str, latest: LatestRows, missing: str) -> set[str]:
    """The URIs of captions to leave out, since their image no longer exists.

    Args:
      output: the job's output folder.
      latest: the current rows.
      missing: one of `CHOICES`.

    Raises:
      MissingImagesError: there are some and `missing` is "fail", or none of many exists.
      StorageError: a file of captions cannot be read.
    """
    if missing == KEEP:
        return set()
    gone = find_missing(output, captioned_uris(latest))
    if gone and (missing == FAIL or len(gone) == latest.captions.num_rows):
        head = format_missing(len(gone))
        hint = "" if missing == FAIL else "; all images are missing: is their disk mounted? --missing=keep writes them"
        raise MissingImagesError(f"nothing was written: {head}, such as {public_name(min(gone))}{hint}")
    return gone


def without_missing(output: str, latest: LatestRows, gone: Collection[str], missing: str) -> LatestRows:
    """The same rows without the captions of URIs that are gone; with "skip" also without failures that are over."""
    over: Collection[str] = ()
    if missing == SKIP:
        over = find_obsolete(output, ((row["uri"], row["error_type"]) for row in failure_rows(latest)))
    captions = _without(latest.caption_parts, latest.captions, gone)
    return dataclasses.replace(
        latest, captions=captions, failures=_without(latest.failure_parts, latest.failures, over)
    )


def _without(parts: Sequence[Part], rows: pa.Table, uris: Collection[str]) -> pa.Table:
    """The positions (part, row) of `rows` without those of these URIs."""
    kept = [] if uris else [rows]
    names = pa.array(list(uris), pa.string())
    for part in pc.unique(rows["part"]).to_pylist() if uris else ():
        found = read_rows(parts, rows, part)["uri"].cast(pa.string())
        kept.append(rows.filter(pc.equal(rows["part"], part)).filter(pc.invert(pc.is_in(found, names))))
    return pa.concat_tables(kept)


def failure_rows(latest: LatestRows) -> Iterator[dict[str, Any]]:
    """The current failures, with all columns."""
    for part in pc.unique(latest.failures["part"]).to_pylist():
        yield from read_rows(latest.failure_parts, latest.failures, part).to_pylist()


def captioned_uris(latest: LatestRows) -> Iterator[str]:
    """The URIs that have a caption now."""
    for part in pc.unique(latest.captions["part"]).to_pylist():
        yield from read_rows(latest.caption_parts, latest.captions, part)["uri"].to_pylist()


def find_missing(output: str, uris: Iterable[str]) -> set[str]:
    """Those whose file or object does not exist, nor the list of `output`'s runs that holds their image.

    Web addresses are not asked, and names that are not absolute cannot be: nobody knows where they were given.
    """
    asked = [uri for uri in uris if scheme_of(uri) in _ASKED and (SCHEME.match(uri) or os.path.isabs(uri))]
    with ThreadPoolExecutor(_THREADS) as threads:
        gone = {uri for uri, missing in zip(asked, threads.map(_is_missing, asked), strict=True) if missing}
    return gone - _held_by_lists(output, gone) if gone else gone


def _held_by_lists(output: str, uris: Collection[str]) -> set[str]:
    """Those whose image lies in a Parquet list that exists, by the plans of the runs."""
    names, held = pa.array(list(uris), pa.string()), set[str]()
    exists = functools.cache(lambda given: not _is_missing(given))
    for run, manifest in read_readable_runs(output).manifests.items():
        with contextlib.suppress(StorageError):  # a plan that is damaged, or was deleted
            for table in read_plan_columns(run, manifest.shards, ["uri", "parquet_place"]):
                if "parquet_place" not in table.column_names:
                    break
                rows = table.filter(pc.and_(table["parquet_place"].is_valid(), pc.is_in(table["uri"], names)))
                held |= {row["uri"] for row in rows.to_pylist() if exists(Place.from_json(row["parquet_place"]).given)}
    return held


def find_obsolete(output: str, failures: Iterable[tuple[str, str]]) -> set[str]:
    """The URIs of failures (URI, error type) whose file no longer exists, or whose folder can be read now.

    A file that was not there when it failed is no such: a list may still name it.
    """
    types = {uri: error_type for uri, error_type in failures if error_type not in MISSING_ERRORS}
    readable = {uri for uri, error_type in types.items() if error_type == UNREADABLE_FOLDER and _can_list(uri)}
    return find_missing(output, types) | readable


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
