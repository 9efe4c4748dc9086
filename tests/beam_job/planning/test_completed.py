"""What counts as completed: captions, final failures, versions, limits, and files of earlier versions."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_job.config import JobConfig
from beam_job.inputs.filters import Filters
from beam_job.inputs.listing import InputError
from beam_job.output.sink import caption_table, commit_shard
from beam_job.planning.plan import PlanReader, Shard, write_plan
from beam_job.planning.prepare import PlannedRun, count_new, list_inputs, new_manifest, plan_run
from beam_job.planning.run import Run
from beam_job.records import CaptionedImage, Failure, ImageInput
from beam_job.storage import StorageError
from model import Caption, Decoding

NOON = datetime.datetime(2026, 1, 2, 12, tzinfo=datetime.timezone.utc)


def job(root: Path, *uris: str, **options: Any) -> JobConfig:
    """A job over an inventory report of these objects, all in version 1."""
    rows = "".join(f"b,{uri.removeprefix('gs://b/')},1,10\n" for uri in uris)
    (root / "report.csv").write_text(f"bucket,name,generation,size\n{rows}")
    inputs = options.pop("inputs", (str(root / "report.csv"),))
    return JobConfig(inputs, str(root / "out"), allow_buckets=("gs://b",), shard_size=2, **options)


def earlier_run(
    config: JobConfig, captions: dict[str, str] | None = None, failures: list[Failure] | None = None, **manifest: Any
) -> Run:
    """A run of one shard, with captions of these URIs in these versions."""
    run = Run.new(config.output)
    images = [ImageInput(uri) for uri in [*(captions or {}), *(failure.uri for failure in failures or [])]]
    plan = write_plan(run, [pa.Table.from_pylist([dataclasses.asdict(image) for image in images])], 512)
    note = dataclasses.replace(new_manifest(config, "model-1"), inputs=plan.inputs, shards=1, **manifest)
    run.storage.write(run.manifest, note.to_json())
    done = [CaptionedImage(uri, (Caption("x", -1.0),), 1, 1, version, NOON) for uri, version in (captions or {}).items()]
    table = caption_table(done, "model-1", several=False)
    commit_shard(run, 0, table, failures or [], Shard(images, pa.table({})))
    run.storage.write(run.summary, b"{}")
    return run


def failed(uri: str, error: str = "ImageError", retry_when: str = "content", stage: str = "decode", **more: Any) -> Failure:
    return Failure(uri, stage, error, more.pop("message", "bad"), False, "1", NOON, retry_when)


def planned(config: JobConfig, model: str = "model-1") -> tuple[PlannedRun, list[str]]:
    """A new run, and the URIs of its plan in order."""
    prepared = plan_run(config, model, list_inputs(config))
    reader = PlanReader(prepared.run)
    return prepared, [image.uri for n in range(prepared.plan.shards) for image in reader.shard(n).images]


def test_new_changed_and_doubled_images_are_planned_once_in_order(tmp_path: Path) -> None:
    config = job(tmp_path, "gs://b/new", "gs://b/done", "gs://b/changed", "gs://b/new", "gs://b/0", "gs://b/done")
    earlier_run(config, {"gs://b/done": "1", "gs://b/changed": "0"})
    run, uris = planned(config)
    assert uris == ["gs://b/new", "gs://b/changed", "gs://b/0"]
    assert (run.plan.inputs, run.plan.shards, run.skipped) == (3, 2, 1)
    new = count_new(config, new_manifest(config, "model-1"), list_inputs(config))
    assert (new.images, new.skipped, new.mean_bytes) == (0, 4, None)  # the run has begun, and its images count as... no
