"""A run's plan: its inputs in shards, stored with the run as one Parquet file, a row group for each shard."""

from __future__ import annotations

import datetime
import io
import itertools
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from beam_job.records import ImageInput
from beam_job.storage import Storage, join, storage_for

PLAN_SCHEMA = pa.schema([("uri", pa.string()), ("object_version", pa.string())])


@dataclass(frozen=True)
class Run:
    """Where a run's files lie.

    Attributes:
      output: the job's output folder, shared by all runs.
      run_id: time of the start in UTC, and some letters that keep two runs of a second apart.
    """

    output: str
    run_id: str

    @classmethod
    def new(cls, output: str) -> Run:
        """A run that starts now."""
        time = datetime.datetime.now(datetime.timezone.utc)
        return cls(output, f"{time:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}")

    @property
    def storage(self) -> Storage:
        """Where `output` lies."""
        return storage_for(self.output)

    @property
    def folder(self) -> str:
        """Plan, summary and success mark."""
        return join(self.output, "runs", self.run_id)

    @property
    def plan(self) -> str:
        """The plan's file."""
        return join(self.folder, "plan.parquet")

    @property
    def summary(self) -> str:
        """The summary's file."""
        return join(self.folder, "summary.json")

    @property
    def success(self) -> str:
        """An empty file, the last to be written."""
        return join(self.folder, "_SUCCESS")

    def captions(self, shard: int) -> str:
        """The captions of a shard; the file stands for the whole shard's being done."""
        return self._part("captions", shard)

    def failures(self, shard: int) -> str:
        """The failures of a shard."""
        return self._part("failures", shard)

    def _part(self, table: str, shard: int) -> str:
        return join(self.output, table, f"run={self.run_id}", f"part-{shard:05d}.parquet")


@dataclass(frozen=True)
class Plan:
    """The size of a plan: `inputs` distinct images in `shards` shards."""

    inputs: int
    shards: int


def write_plan(run: Run, images: Iterable[ImageInput], shard_size: int) -> Plan:
    """Stores `images`, `shard_size` a shard; nothing is written before the last of them has been seen."""
    inputs = shards = 0
    buffer = io.BytesIO()
    images = iter(images)
    with pq.ParquetWriter(buffer, PLAN_SCHEMA, compression="zstd", write_page_checksum=True) as writer:
        while shard := list(itertools.islice(images, shard_size)):
            columns = [[image.uri for image in shard], [image.object_version for image in shard]]
            writer.write_table(pa.table(columns, schema=PLAN_SCHEMA), row_group_size=shard_size)
            inputs += len(shard)
            shards += 1
    run.storage.write(run.plan, buffer.getvalue())
    return Plan(inputs, shards)


class PlanReader:
    """Shards of a stored plan, read one by one."""

    def __init__(self, run: Run) -> None:
        self._file = pq.ParquetFile(run.storage.open(run.plan), page_checksum_verification=True)

    def shard(self, number: int) -> list[ImageInput]:
        """The images of shard `number`, from 0."""
        rows = self._file.read_row_group(number).to_pydict()
        return [ImageInput(*row) for row in zip(rows["uri"], rows["object_version"], strict=True)]

    def close(self) -> None:
        """Closes the plan's file."""
        self._file.close(force=True)
