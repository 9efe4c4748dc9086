"""Planning a large nightly run: an inventory of N objects, most of which have a caption.

    python -m tests.benchmarks.plan_million [--images=1000000] [--done=500000] [--uri_bytes=60]

Makes an inventory report in Parquet and the output of an earlier run over its first images, then plans in a process of
its own, and prints seconds by step and the process's peak memory. The machine is stated.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from beam_job.config import JobConfig
from beam_job.output.tables import caption_schema
from beam_job.planning.completed import completed_parts, read_completed
from beam_job.planning.listed_inputs import list_inputs
from beam_job.planning.prepare import new_manifest, plan_run
from beam_job.planning.run import Run, read_runs
from beam_job.storage.parquet import parquet_bytes

_SHARD = 512
_BATCH = 128 * _SHARD
_BUCKET = "gs://a-bucket-of-photographs"


def main() -> int:
    """The benchmark; with --plan the part that is measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.plan_million", description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--done", type=int, help="images with a caption; half of them by default")
    parser.add_argument("--uri_bytes", type=int, default=60)
    parser.add_argument("--plan", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plan:
        measure(args.plan)
        return 0
    done = args.images // 2 if args.done is None else args.done
    with tempfile.TemporaryDirectory(prefix="plan-million-") as folder:
        make(Path(folder), args.images, done, args.uri_bytes)
        print(
            f"{args.images:,} images of {args.uri_bytes} bytes, {done:,} done; {os.cpu_count()} cores, "
            f"{platform.machine()}",
            flush=True,
        )
        return subprocess.call([sys.executable, "-m", "tests.benchmarks.plan_million", f"--plan={folder}"])


def config_of(root: Path) -> JobConfig:
    """The nightly job."""
    return JobConfig((str(root / "inventory.parquet"),), str(root / "out"), allow_buckets=(_BUCKET,))


def make(root: Path, images: int, done: int, uri_bytes: int) -> None:
    """The inventory, and the committed shards of a run over its first `done` images."""
    schema = pa.schema(
        [("bucket", pa.string()), ("name", pa.string()), ("generation", pa.int64()), ("size", pa.int64())]
    )
    with pq.ParquetWriter(root / "inventory.parquet", schema, compression="zstd") as writer:
        for numbers in _batches(images):
            columns = [
                [_BUCKET.removeprefix("gs://")] * len(numbers),
                [_name(number, uri_bytes) for number in numbers],
                [1_700_000_000_000_000 + number for number in numbers],
                [100_000] * len(numbers),
            ]
            writer.write_table(pa.table(columns, schema=schema))
    run = Run.new(str(root / "out"))
    shards = 0
    for numbers in _batches(done):
        for start in range(0, len(numbers), _SHARD):
            _commit(run, shards, numbers[start : start + _SHARD], uri_bytes)
            shards += 1
    manifest = dataclasses.replace(new_manifest(config_of(root), "model-1"), inputs=done, shards=shards)
    run.storage.write(run.manifest, manifest.to_json())
    run.storage.write(run.summary, b"{}")


def measure(root: Path) -> None:
    """Reads what is completed, and plans once."""
    config = config_of(root)
    base = peak_mb()
    started = time.monotonic()
    runs = read_runs(config.output)
    limits = next(iter(runs.values())).limits
    completed = read_completed(completed_parts(runs, config.retry, limits))
    print(f"read {len(completed):,} completed   {time.monotonic() - started:6.1f} s   peak {peak_mb():6.0f} MB")
    del completed
    started = time.monotonic()
    planned = plan_run(config, "model-1", list_inputs(config))
    print(f"plan of {planned.plan.inputs:,}, {planned.skipped:,} skipped: {time.monotonic() - started:.1f} s", end="")
    print(f"   CPU in all {time.process_time():.1f} s   peak {peak_mb():.0f} MB (imports {base:.0f} MB)")


def peak_mb() -> float:
    """The process's largest resident size so far; not getrusage's, which remembers the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def _batches(count: int) -> Iterator[range]:
    for start in range(0, count, _BATCH):
        yield range(start, min(start + _BATCH, count))


def _name(number: int, uri_bytes: int) -> str:
    name = f"photos/{number // 1000:05d}/{number:09d}.jpg"
    return name.rjust(uri_bytes - len(_BUCKET) - 1, "x")


def _commit(run: Run, shard: int, numbers: range, uri_bytes: int) -> None:
    count = len(numbers)
    values = {
        "uri": [f"{_BUCKET}/{_name(number, uri_bytes)}" for number in numbers],
        "object_version": [str(1_700_000_000_000_000 + number) for number in numbers],
        "caption": ["a dog runs on the grass"] * count,
        "captioned_at": [datetime.datetime.now(datetime.timezone.utc)] * count,
    }
    schema = caption_schema()
    table = pa.table({field.name: values.get(field.name, [None] * count) for field in schema}, schema=schema)
    run.storage.write(run.captions(shard), parquet_bytes(table))


if __name__ == "__main__":
    sys.exit(main())
