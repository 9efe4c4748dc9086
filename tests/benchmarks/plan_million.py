"""Planning a large nightly run: an inventory of N objects of which half have a caption.

    python -m tests.benchmarks.plan_million [--images=1000000] [--in_pipeline]

Makes an inventory report in Parquet and the output of an earlier run, then plans in a process of its own, and prints
seconds by step and the process's peak memory. The machine is stated.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from beam_job.config import JobConfig
from beam_job.output.sink import caption_schema, commit_shard
from beam_job.planning.completed import completed_parts, read_completed, exclude_completed
from beam_job.planning.plan import Shard, write_plan
from beam_job.planning.prepare import list_inputs, plan_run
from beam_job.planning.run import Run, RunManifest, read_runs
from model import Decoding

_SHARD = 512


def main() -> int:
    """The benchmark; with --plan the part that is measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.plan_million", description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--in_pipeline", action="store_true", help="as for more images than fit into memory")
    parser.add_argument("--plan", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plan:
        (measure_pipeline if args.in_pipeline else measure)(args.plan)
        return 0
    with tempfile.TemporaryDirectory(prefix="plan-million-") as folder:
        make(Path(folder), args.images)
        print(f"{args.images:,} images, half of them done; {os.cpu_count()} cores, {platform.machine()}", flush=True)
        options = [f"--plan={folder}", *(["--in_pipeline"] if args.in_pipeline else [])]
        return subprocess.call([sys.executable, "-m", "tests.benchmarks.plan_million", *options])


def config_of(root: Path) -> JobConfig:
    """The nightly job."""
    return JobConfig(
        inputs=(str(root / "inventory.parquet"),),
        output=str(root / "out"),
        allow_buckets=("gs://a-bucket-of-photographs",),
    )


def make(root: Path, images: int) -> None:
    """The inventory, and the committed shards of a run over its first half."""
    names = [f"photos/{number // 1000:05d}/{number:09d}.jpg" for number in range(images)]
    columns = {
        "bucket": pa.array(["a-bucket-of-photographs"] * images).dictionary_encode(),
        "name": names,
        "generation": pa.array(range(1_700_000_000_000_000, 1_700_000_000_000_000 + images), pa.int64()),
        "size": pa.array([100_000] * images, pa.int64()),
    }
    pq.write_table(pa.table(columns), root / "inventory.parquet", compression="zstd")
    half = list_inputs(config_of(root)).table().slice(0, images // 2)
    run = Run.new(str(root / "out"))
    plan = write_plan(run, [half], _SHARD)
    run.storage.write(
        run.manifest, RunManifest("model-1", dataclasses.asdict(Decoding()), {}, plan.inputs, plan.shards, 0).to_json()
    )
    now = datetime.datetime.now(datetime.timezone.utc)
    schema = caption_schema(several=False)
    for shard in range(plan.shards):
        rows = half.slice(shard * _SHARD, _SHARD)
        count = rows.num_rows
        values = {"caption": ["a dog runs on the grass"] * count, "captioned_at": [now] * count}
        table = {field.name: values.get(field.name, [None] * count) for field in schema}
        table |= {"uri": rows["uri"], "object_version": rows["object_version"]}
        commit_shard(run, shard, pa.table(table, schema=schema), [], Shard([], pa.table({})))
    run.storage.write(run.summary, b"{}")


def measure(root: Path) -> None:
    """Plans once, step by step."""
    config = config_of(root)
    base = peak_mb()
    started = last = time.monotonic()

    def tell(step: str) -> None:
        nonlocal last
        print(f"{step:28} {time.monotonic() - last:6.1f} s   peak {peak_mb():6.0f} MB", flush=True)
        last = time.monotonic()

    listed = list_inputs(config).table()
    tell("list, distinct")
    done = read_completed(completed_parts(read_runs(config.output), config.retry))
    tell(f"read {done.num_rows:,} done")
    todo = exclude_completed(listed, done, config.allowed)
    tell("difference")
    write_plan(Run(config.output, "planned"), [todo], config.shard_size)
    tell(f"write plan of {todo.num_rows:,}")
    print(f"{'in all':28} {time.monotonic() - started:6.1f} s   peak {peak_mb():6.0f} MB (imports {base:.0f} MB)")


def measure_pipeline(root: Path) -> None:
    """Plans inside the pipeline, on Beam's runner in this process."""
    from beam_job.cli.job import _run_planning
    from beam_job.runners.beam_options import beam_options

    config = dataclasses.replace(config_of(root), rows_in_memory=10_000)
    base = peak_mb()
    started = time.monotonic()
    run_graph = functools.partial(_run_planning, config, beam_options(config, []))
    prepared = plan_run(config, "model-1", list_inputs(config), run_graph)
    print(
        f"plan of {prepared.plan.inputs:,}, {prepared.skipped:,} done before: {time.monotonic() - started:.1f} s",
        end="",
    )
    print(f"   peak {peak_mb():.0f} MB (imports {base:.0f} MB)")


def peak_mb() -> float:
    """The process's largest resident size so far; not getrusage's, which remembers the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


if __name__ == "__main__":
    sys.exit(main())
