"""`snapshot`: one row a URI, the newest, as compact Parquet, and the failures that still stand beside it."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from beam_job.results.corrections import BAD, EDITED
from beam_job.results.current import read_standing
from beam_job.storage import StoredObject, join, storage_for
from beam_job.storage.parquet import parquet_bytes

_DESCRIPTION = """\
Writes what stands in an output as a table of its own: each URI once, with its newest caption, in
DIR/data/train-00000-of-0000N.parquet, as datasets.load_dataset(DIR) expects; and the URIs that have none, with the
reason, in DIR/failures/. It may run while a run is under way, and sees the shards that are done. The column
`correction` tells what people said with `correct`: `edited` (the caption is theirs, without a score), `bad`, or null.
"""


@dataclass(frozen=True)
class Snapshot:
    """Rows written.

    Attributes:
      captions: all of them.
      failures: likewise.
      edited: captions that people wrote.
      bad: captions of images that people marked as bad.
    """

    captions: int
    failures: int
    edited: int
    bad: int


def write_snapshot(output: str, to: str, max_rows: int = 1_000_000, max_bytes: int = 256 * 2**20) -> Snapshot:
    """Writes the snapshot of an output.

    Args:
      output: of the job.
      to: folder for the snapshot; the files of an earlier one there are replaced.
      max_rows: of a file.
      max_bytes: of a file, by the compressed size of the rows where they lie now.
    """
    standing = read_standing(output)
    outcomes, corrections = standing.outcomes, Counter[str | None]()

    def counted(rows: int) -> Iterator[pa.Table]:
        for table in standing.captions(rows):
            corrections.update(table["correction"].to_pylist())
            yield table

    captions = _write(
        counted, outcomes.caption_parts, outcomes.captions.num_rows, join(to, "data"), max_rows, max_bytes
    )
    failed = outcomes.failures.num_rows
    failures = _write(standing.failures, outcomes.failure_parts, failed, join(to, "failures"), max_rows, max_bytes)
    return Snapshot(captions, failures, corrections[EDITED], corrections[BAD])


def _write(
    tables_of: Callable[[int], Iterator[pa.Table]],
    parts: Sequence[StoredObject],
    count: int,
    folder: str,
    max_rows: int,
    max_bytes: int,
) -> int:
    """Writes `count` rows, which `tables_of` deals out, in files of about equal size; removes an earlier snapshot's."""
    storage = storage_for(folder)
    size = sum(part.size for part in parts)
    files = max(-(-count // max_rows), -(-size // max_bytes)) if count else 0
    written = set()
    for number, table in enumerate(tables_of(-(-count // max(files, 1)))):
        uri = join(folder, f"train-{number:05d}-of-{files:05d}.parquet")
        storage.write(uri, parquet_bytes(table))
        written.add(uri.split("/")[-1])
    for stored in list(storage.list(folder)):
        if stored.uri.split("/")[-1] not in written:
            storage.delete(stored.uri)
    return count


def main(arguments: list[str]) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="caption-images snapshot", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", required=True, metavar="FOLDER", help="of the job")
    parser.add_argument("--to", required=True, metavar="DIR", help="folder for the snapshot")
    parser.add_argument("--max_rows", type=int, default=1_000_000, help="of a file (default: %(default)s)")
    parser.add_argument("--max_bytes", type=int, default=256 * 2**20, help="of a file, about (default: %(default)s)")
    args = parser.parse_args(arguments)
    snapshot = write_snapshot(args.output, args.to, args.max_rows, args.max_bytes)
    corrected = f" ({snapshot.edited:,} edited, {snapshot.bad:,} marked bad)" if snapshot.edited or snapshot.bad else ""
    print(f"{snapshot.captions:,} captions{corrected} and {snapshot.failures:,} standing failures in {args.to}")
    return 0
