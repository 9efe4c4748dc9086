"""What is new, found inside the pipeline: for listings that the launching machine could not hold.

    listing files ─┐
                   ├─ SplitByUri ─> CoGroupByKey ─> TakeDifference ─> GroupByKey ─> WriteTodo ─> todo files, in order
    done files ────┘   (bucket)                      (position)

A bucket holds all rows of the URIs that hash to it, so what `first_of_each_uri` and `exclude_completed` do to a listing in
memory they do to each bucket here: both ways give the same plan. Rows travel as Arrow, many at a time.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics

from beam_job.planning.completed import CompletedPart, read_completed_part, exclude_completed
from beam_job.planning.plan import first_of_each_uri, rebatch
from beam_job.planning.run import Run
from beam_job.records import METRIC_NAMESPACE
from beam_job.storage import Allowed, join, storage_for
from beam_job.storage.parquet import parquet_bytes, read_parquet

BUCKET_ROWS = 200_000
LISTED = "distinct_images"
_POSITION = "position"
_FILE_ROWS = 500_000


@dataclass(frozen=True)
class ListingFiles:
    """A listing in Parquet files, each row with its position in the whole.

    Attributes:
      uris: of the files, in order.
      rows: of all of them.
    """

    uris: Sequence[str]
    rows: int


def write_listing(run: Run, tables: Iterable[pa.Table]) -> ListingFiles:
    """Stores a listing with the run, some files' worth of rows in memory at a time."""
    uris: list[str] = []
    rows = 0
    for table in rebatch(tables, _FILE_ROWS):
        positions = pa.array(np.arange(rows, rows + table.num_rows))
        uris.append(join(run.planning, f"listing-{len(uris):05d}.parquet"))
        run.storage.write(uris[-1], parquet_bytes(table.append_column(_POSITION, positions)))
        rows += table.num_rows
    return ListingFiles(uris, rows)


def build_difference(
    pipeline: beam.Pipeline,
    run: Run,
    listing: Sequence[str],
    done: Sequence[CompletedPart],
    rows: int,
    allowed: Allowed,
) -> None:
    """The rows of the files of `listing` that `done` does not hold, each URI once, as todo files of the run.

    `rows`: of both sides together.
    """
    buckets = 1 + rows // BUCKET_ROWS
    listed = (
        pipeline
        | "ListingFiles" >> beam.Create(listing)
        | "DealOutListing" >> beam.Reshuffle()
        | "SplitListing" >> beam.FlatMap(_split_listing, buckets)
    )
    before = (
        pipeline
        | "DoneFiles" >> beam.Create(done)
        | "DealOutDone" >> beam.Reshuffle()
        | "SplitDone" >> beam.FlatMap(_split_done, buckets)
    )
    (
        {"listed": listed, "done": before}
        | "OfOneBucket" >> beam.CoGroupByKey()
        | "TakeDifference" >> beam.ParDo(TakeDifference(allowed))
        | "InOrder" >> beam.GroupByKey()
        | "WriteTodo" >> beam.Map(_write_todo, run)
    )


def read_todo(run: Run) -> Iterator[pa.Table]:
    """The rows that `build_difference` left, in the listing's order, a file at a time and of one schema."""
    files = sorted(stored.uri for stored in run.storage.list(run.planning) if "/todo-" in stored.uri)
    schemas = [read_parquet(uri).schema_arrow for uri in files]
    empty = pa.unify_schemas(schemas, promote_options="permissive").empty_table() if files else None
    for uri in files:
        table = pa.concat_tables([empty, read_parquet(uri).read()], promote_options="permissive")
        yield table.drop_columns(_POSITION)


def remove_planning(run: Run) -> None:
    """Removes the files that planning left with the run."""
    for stored in run.storage.list(run.planning):
        run.storage.delete(stored.uri)


class TakeDifference(beam.DoFn):
    """A bucket's rows of both sides in; what is to be done out, by the todo file that it belongs to."""

    def __init__(self, allowed: Allowed) -> None:
        self._allowed = allowed

    def process(self, element: tuple[int, Mapping[str, Iterable[bytes]]]) -> Iterator[tuple[int, bytes]]:
        _, sides = element
        listed = _table_of(sides["listed"])
        if listed is None:
            return
        listed = first_of_each_uri(listed.sort_by(_POSITION))
        Metrics.counter(METRIC_NAMESPACE, LISTED).inc(listed.num_rows)
        done = _table_of(sides["done"])
        todo = listed if done is None else exclude_completed(listed, done, self._allowed)
        yield from _split(todo, todo[_POSITION].to_numpy() // _FILE_ROWS)


def _split_listing(uri: str, buckets: int) -> Iterator[tuple[int, bytes]]:
    table = read_parquet(uri).read()
    return _split(table, _buckets(table, buckets))


def _split_done(file: CompletedPart, buckets: int) -> Iterator[tuple[int, bytes]]:
    table = read_completed_part(file)
    return _split(table, _buckets(table, buckets))


def _write_todo(element: tuple[int, Iterable[bytes]], run: Run) -> None:
    number, pieces = element
    table = _table_of(pieces)
    if table is not None:
        uri = join(run.planning, f"todo-{number:05d}.parquet")
        storage_for(uri).write(uri, parquet_bytes(table.sort_by(_POSITION)))


def _buckets(table: pa.Table, count: int) -> np.ndarray:
    """int64[rows] below `count`; the same for a URI in every process, as Python's own hash is not."""
    hashes = (zlib.crc32(uri.encode()) for uri in table["uri"].to_pylist())
    return np.fromiter(hashes, np.int64, table.num_rows) % count


def _split(table: pa.Table, keys: np.ndarray) -> Iterator[tuple[int, bytes]]:
    order = np.argsort(keys, kind="stable")
    found, starts = np.unique(keys[order], return_index=True)
    for key, start, end in zip(found, starts, [*starts, len(keys)][1:], strict=True):
        yield int(key), _packed(table.take(pa.array(order[start:end])))


def _packed(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _table_of(pieces: Iterable[bytes]) -> pa.Table | None:
    tables = [pa.ipc.open_stream(piece).read_all() for piece in pieces]
    return pa.concat_tables(tables, promote_options="permissive").combine_chunks() if tables else None
