"""`snapshot`: one row a URI, the newest, as compact Parquet, and the failures that still stand beside it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from beam_job.outcomes import common_schema, read_outcomes, read_rows
from beam_job.parquet import parquet_bytes
from beam_job.storage import StoredObject, join, storage_for

_DESCRIPTION = """\
Writes what stands in an output as a table of its own: each URI once, with its newest caption, in
DIR/data/train-00000-of-0000N.parquet, as datasets.load_dataset(DIR) expects; and the URIs that have none, with the
reason, in DIR/failures/. It may run while a run is under way, and sees the shards that are done.
"""


@dataclass(frozen=True)
class Snapshot:
    """Rows written."""

    captions: int
    failures: int


def write_snapshot(output: str, to: str, max_rows: int = 1_000_000, max_bytes: int = 256 * 2**20) -> Snapshot:
    """Writes the snapshot of an output.

    Args:
      output: of the job.
      to: folder for the snapshot; the files of an earlier one there are replaced.
      max_rows: of a file.
      max_bytes: of a file, by the compressed size of the rows where they lie now.
    """
    outcomes = read_outcomes(output)
    captions = _write(outcomes.caption_parts, outcomes.captions, join(to, "data"), "train", max_rows, max_bytes)
    failures = _write(outcomes.failure_parts, outcomes.failures, join(to, "failures"), "train", max_rows, max_bytes)
    return Snapshot(captions, failures)


def _write(
    parts: Sequence[StoredObject], places: pa.Table, folder: str, split: str, max_rows: int, max_bytes: int
) -> int:
    """Writes the rows at `places` in files of about equal size; removes the files of an earlier snapshot."""
    storage = storage_for(folder)
    size = sum(part.size for part in parts)
    files = max(-(-places.num_rows // max_rows), -(-size // max_bytes)) if places.num_rows else 0
    rows = -(-places.num_rows // max(files, 1))
    written = set()
    for number, table in enumerate(_regrouped(parts, places, rows)):
        uri = join(folder, f"{split}-{number:05d}-of-{files:05d}.parquet")
        storage.write(uri, parquet_bytes(table))
        written.add(uri.split("/")[-1])
    for stored in list(storage.list(folder)):
        if stored.uri.split("/")[-1] not in written:
            storage.delete(stored.uri)
    return places.num_rows


def _regrouped(parts: Sequence[StoredObject], places: pa.Table, rows: int) -> Iterator[pa.Table]:
    """The rows at `places` in tables of `rows` rows and of one schema: what a run did not carry is null."""
    used = pc.unique(places["part"]).to_pylist()
    waiting = common_schema([parts[part] for part in used]).empty_table() if used else None
    for part in used:
        waiting = pa.concat_tables([waiting, read_rows(parts, places, part)], promote_options="permissive")
        while waiting.num_rows >= rows:
            yield waiting.slice(0, rows).combine_chunks()
            waiting = waiting.slice(rows)
    if waiting is not None and waiting.num_rows:
        yield waiting.combine_chunks()


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
    print(f"{snapshot.captions:,} captions and {snapshot.failures:,} standing failures in {args.to}")
    return 0
