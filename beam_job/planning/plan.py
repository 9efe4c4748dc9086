"""A run's plan: its inputs divided into shards, stored with the run as Parquet files with one row group per shard."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beam_job.inputs.columns import common_schema, concat_tables, fitted
from beam_job.inputs.rows import LISTING_FIELDS
from beam_job.planning.damage import DAMAGED, is_missing, naming_damage
from beam_job.planning.run import Run
from beam_job.records import ImageInput
from beam_job.storage import StorageError
from beam_job.storage.parquet import parquet_bytes, read_parquet

_OWN_COLUMNS = [field.name for field in LISTING_FIELDS]
_SHARDS_PER_PART = 100  # a worker reads a part to have one of its shards: some 2 MB
_PARTS_KEPT = 8
_THREADS = 16
_REPLANNED = "the images that its run has written are done, and the others are planned in a new run"
_REMEDY = f"delete it and repeat the command: {_REPLANNED}"


@dataclass(frozen=True)
class Plan:
    """The size of a plan: `inputs` distinct images in `shards` shards."""

    inputs: int
    shards: int

    @property
    def parts(self) -> int:
        """Files that hold it."""
        return -(-self.shards // _SHARDS_PER_PART)


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
        """Position of each URI in `images`."""
        return {image.uri: place for place, image in enumerate(self.images)}

    def columns_of(self, uri: str) -> Mapping[str, Any]:
        """The carried columns of an image."""
        [row] = self.carried.slice(self.place[uri], 1).to_pylist() if self.carried.num_columns else [{}]
        return row

    def carried_by(self, uris: Iterable[str]) -> pa.Table:
        """The rows of `carried` that belong to these images."""
        return self.carried.take(pa.array([self.place[uri] for uri in uris], pa.int64()))


def rebatch(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of `rows` rows; the last has the remainder."""
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        waiting, count = [*waiting, table], count + table.num_rows
        while count >= rows:
            whole = concat_tables(waiting)
            yield whole.slice(0, rows)
            waiting, count = [whole.slice(rows)], count - rows
    if count:
        yield concat_tables(waiting)


def write_plan(run: Run, images: Iterable[pa.Table], shard_size: int) -> Plan:
    """Stores `images` (LISTING_FIELDS and carried columns) as they come, `shard_size` a shard.

    Raises:
      StorageError: the plan cannot be written.
    """
    inputs = 0
    schemas: list[pa.Schema] = []
    for number, table in enumerate(rebatch(images, shard_size * _SHARDS_PER_PART)):
        run.storage.write(run.plan_part(number), parquet_bytes(table, row_group_size=shard_size))
        schemas.append(table.schema)
        inputs += table.num_rows
    _unify_schemas(run, schemas, shard_size)
    return Plan(inputs, -(-inputs // shard_size))


def delete_plan(run: Run) -> None:
    """Deletes the parts of a plan that was not finished."""
    for stored in run.storage.list(run.plan_folder):
        run.storage.delete(stored.uri)


def check_plan(run: Run, plan: Plan) -> None:
    """Returns where all parts of the plan are there with all their rows.

    Raises:
      StorageError: one cannot be read, or, with the cause `DAMAGED`, is missing or damaged.
    """

    def rows(number: int) -> tuple[int, int]:
        try:
            metadata = _read_part(run, number, _REPLANNED).metadata
        except StorageError as error:
            if is_missing(error):
                raise StorageError(f"{run.plan_part(number)} is missing; {_REPLANNED}", DAMAGED) from error
            raise
        return metadata.num_rows, metadata.num_row_groups

    with ThreadPoolExecutor(_THREADS) as threads:
        found = list(threads.map(rows, range(plan.parts)))
    inputs, shards = (sum(column) for column in zip(*found, strict=True))
    if (inputs, shards) != (plan.inputs, plan.shards):
        raise StorageError(f"{run.plan_folder} has {inputs:,} images instead of {plan.inputs:,}; {_REPLANNED}", DAMAGED)


def shard_of(table: pa.Table) -> Shard:
    """A shard of these rows of a plan."""
    own = [name for name in _OWN_COLUMNS if name in table.column_names]  # an older version's plan has fewer
    columns = (table[name].to_pylist() for name in own)  # in the order of ImageInput's fields
    images = [ImageInput(*values) for values in zip(*columns, strict=True)]
    return Shard(images, table.drop_columns(own))


def read_plan_columns(run: Run, shards: int, columns: Sequence[str]) -> Iterator[pa.Table]:
    """These columns of each shard of a plan, as far as it has them.

    Raises:
      StorageError: a part cannot be read or is damaged.
    """
    for number in range(Plan(0, shards).parts):
        parquet = _read_part(run, number)
        known = [name for name in columns if name in parquet.schema_arrow.names]
        with naming_damage(run.plan_part(number), _REMEDY):
            yield from (parquet.read_row_group(group, known) for group in range(parquet.num_row_groups))


class PlanReader:
    """Shards of a stored plan, read one by one."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._part = functools.lru_cache(_PARTS_KEPT)(lambda number: _read_part(run, number))

    def shard(self, number: int) -> Shard:
        """Shard `number`, from 0.

        Raises:
          StorageError: its part of the plan cannot be read or is damaged.
        """
        part, row_group = divmod(number, _SHARDS_PER_PART)
        parquet = self._part(part)
        with naming_damage(self._run.plan_part(part), _REMEDY):
            return shard_of(parquet.read_row_group(row_group))

    def close(self) -> None:
        """Drops the parts held in memory."""
        self._part.cache_clear()


def _read_part(run: Run, number: int, remedy: str = _REMEDY) -> pq.ParquetFile:
    uri = run.plan_part(number)
    with naming_damage(uri, remedy):
        return read_parquet(uri)


def _unify_schemas(run: Run, schemas: Sequence[pa.Schema], shard_size: int) -> None:
    """Writes again the parts whose columns have other types than those of all lists together."""
    if not schemas:
        return
    common = common_schema(schemas)
    for number, schema in enumerate(schemas):
        if schema != common:
            table = fitted(_read_part(run, number).read(), common)
            run.storage.write(run.plan_part(number), parquet_bytes(table, row_group_size=shard_size))
