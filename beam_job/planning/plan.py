"""A run's plan: its inputs in shards, stored with the run as Parquet files, a row group for each shard."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_job.inputs.lists import LISTING_FIELDS
from beam_job.planning.run import Run
from beam_job.records import ImageInput
from beam_job.storage.parquet import parquet_bytes, read_parquet

_OWN_COLUMNS = [field.name for field in LISTING_FIELDS]
_SHARDS_A_FILE = 100  # a worker reads a file to have one of its shards: some 2 MB
_FILES_KEPT = 8


@dataclass(frozen=True)
class Plan:
    """The size of a plan: `inputs` distinct images in `shards` shards."""

    inputs: int
    shards: int


@dataclass(frozen=True)
class Shard:
    """A shard of a plan.

    Attributes:
      images: its inputs.
      carried: columns of the user's list for the output, a row for each image.
    """

    images: Sequence[ImageInput]
    carried: pa.Table

    @functools.cached_property
    def place(self) -> Mapping[str, int]:
        """Where each URI stands among `images`."""
        return {image.uri: place for place, image in enumerate(self.images)}

    def carried_by(self, uris: Iterable[str]) -> pa.Table:
        """The rows of `carried` that belong to these images."""
        return self.carried.take(pa.array([self.place[uri] for uri in uris], pa.int64()))


def first_of_each_uri(listing: pa.Table) -> pa.Table:
    """The rows whose URI does not stand earlier in `listing`, in their order."""
    if pc.count_distinct(listing["uri"]).as_py() == listing.num_rows:
        return listing  # the usual case, at half the memory of grouping
    rows = pa.table({"uri": listing["uri"], "row": pa.array(np.arange(listing.num_rows))})
    first = rows.group_by("uri").aggregate([("row", "min")])["row_min"].combine_chunks()
    return listing.take(first.sort())


def rebatch(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows, `rows` a table; the last has what is left."""
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        waiting, count = [*waiting, table], count + table.num_rows
        while count >= rows:
            whole = pa.concat_tables(waiting, promote_options="permissive")
            yield whole.slice(0, rows)
            waiting, count = [whole.slice(rows)], count - rows
    if count:
        yield pa.concat_tables(waiting, promote_options="permissive")


def write_plan(run: Run, images: Iterable[pa.Table], shard_size: int) -> Plan:
    """Stores `images` (LISTING_FIELDS and carried columns, tables of one schema), `shard_size` a shard."""
    inputs = 0
    for number, table in enumerate(rebatch(images, shard_size * _SHARDS_A_FILE)):
        run.storage.write(run.plan_part(number), parquet_bytes(table, row_group_size=shard_size))
        inputs += table.num_rows
    return Plan(inputs, -(-inputs // shard_size))


class PlanReader:
    """Shards of a stored plan, read one by one."""

    def __init__(self, run: Run) -> None:
        self._file = functools.lru_cache(_FILES_KEPT)(lambda number: read_parquet(run.plan_part(number)))

    def shard(self, number: int) -> Shard:
        """Shard `number`, from 0."""
        file, row_group = divmod(number, _SHARDS_A_FILE)
        table = self._file(file).read_row_group(row_group)
        columns = (table[name].to_pylist() for name in _OWN_COLUMNS)  # in the order of ImageInput's fields
        images = [ImageInput(*values) for values in zip(*columns, strict=True)]
        return Shard(images, table.drop_columns(_OWN_COLUMNS))

    def close(self) -> None:
        """Lets go of the plan."""
        self._file.cache_clear()
