"""A run's plan: its inputs in shards, stored with the run as one Parquet file, a row group for each shard."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_job.lists import LISTING_FIELDS
from beam_job.parquet import parquet_bytes, read_parquet
from beam_job.records import ImageInput
from beam_job.run import Run

_OWN_COLUMNS = [field.name for field in LISTING_FIELDS]


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


def write_plan(run: Run, images: pa.Table, shard_size: int) -> Plan:
    """Stores `images` (LISTING_FIELDS and carried columns), `shard_size` a shard."""
    run.storage.write(run.plan, parquet_bytes(images, row_group_size=shard_size))
    return Plan(images.num_rows, -(-images.num_rows // shard_size))


class PlanReader:
    """Shards of a stored plan, read one by one."""

    def __init__(self, run: Run) -> None:
        self._file = read_parquet(run.plan)

    def shard(self, number: int) -> Shard:
        """Shard `number`, from 0."""
        table = self._file.read_row_group(number)
        images = [ImageInput(**row) for row in table.select(_OWN_COLUMNS).to_pylist()]
        return Shard(images, table.drop_columns(_OWN_COLUMNS))

    def close(self) -> None:
        """Lets go of the plan."""
        self._file.close(force=True)
