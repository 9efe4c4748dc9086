"""Outputs of the job: made by hand, with a manifest, captions and failures but without a model; and read."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds

from beam_job.config import JobConfig
from beam_job.output.sink import commit_shard
from beam_job.output.tables import caption_table
from beam_job.planning.plan import Shard
from beam_job.planning.recorded_config import request_of
from beam_job.planning.run import Run, RunManifest
from beam_job.records import CaptionedImage, Failure, ImageInput
from model import Caption, Decoding

START = datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)


def add_run(
    output: str,
    hour: int,
    captions: Mapping[str, str] | None = None,
    failures: Sequence[Failure] = (),
    version: str = "v1",
    decoding: Decoding | None = None,
    skipped: int = 0,
    carried: Mapping[str, Sequence[object]] | None = None,
) -> Run:
    """Adds a run of one shard, which began at that hour; `captions` by URI. Without rows it has a manifest alone."""
    run = Run(output, f"20260102T{hour:02}0000000Z-0000000{hour % 10}")
    time = START + datetime.timedelta(hours=hour)
    rows = [
        CaptionedImage(uri, (Caption(text, -0.5),), 30, 20, version, time) for uri, text in (captions or {}).items()
    ]
    config = JobConfig(inputs=("/photos",), output=output, decoding=decoding or Decoding())
    images = len(rows) + len(failures)
    manifest = RunManifest(
        "model-1", dataclasses.asdict(config.decoding), request_of(config), images, int(images > 0), skipped
    )
    run.storage.write(run.manifest, manifest.to_json())
    if images:
        columns = pa.table(dict(carried or {}))
        shard = Shard([ImageInput(row.uri) for row in [*rows, *failures]], columns)
        captioned = caption_table(rows, "model-1", False, columns if carried else None)
        commit_shard(run, 0, captioned, [dataclasses.replace(failure, failed_at=time) for failure in failures], shard)
    return run


def table(output: object, name: str) -> list[dict]:
    """The rows of all runs, of "captions" or "failures", with the column `run`."""
    return ds.dataset(f"{output}/{name}", partitioning="hive").to_table().to_pylist()


def only_run(output: Path) -> Path:
    [run] = (output / "runs").iterdir()
    return run
