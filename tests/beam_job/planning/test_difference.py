"""The difference taken inside the pipeline gives the plan that the one in memory gives."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import functools
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from beam_job.cli.job import _run_planning
from beam_job.config import JobConfig
from beam_job.inputs.filters import Filters
from beam_job.inputs.listing import InputError
from beam_job.output.sink import caption_table, commit_shard
from beam_job.planning import difference
from beam_job.planning.plan import PlanReader, Shard, write_plan
from beam_job.planning.prepare import PlannedRun, list_inputs, plan_run
from beam_job.planning.run import Run, RunManifest
from beam_job.records import CaptionedImage, Failure, ImageInput
from beam_job.runners.beam_options import beam_options
from model import Caption, Decoding

NOON = datetime.datetime(2026, 1, 2, 12, tzinfo=datetime.timezone.utc)
DECODING = dataclasses.asdict(Decoding())


def earlier_run(output: Path, model: str, captions: dict[str, str], failures: dict[str, bool]) -> None:
    """A run that captioned these URIs in these versions, and failed on those, transiently or not."""
    run = Run.new(str(output))
    images = [ImageInput(uri) for uri in (*captions, *failures)]
    listed = pa.Table.from_pylist([dataclasses.asdict(image) for image in images])
    plan = write_plan(run, [listed], 512)
    run.storage.write(run.manifest, RunManifest(model, DECODING, {}, plan.inputs, plan.shards, 0).to_json())
    done = [CaptionedImage(uri, (Caption("x", -1.0),), 1, 1, version, NOON) for uri, version in captions.items()]
    failed = [Failure(uri, "fetch", "Gone", "gone", kind, "1", NOON) for uri, kind in failures.items()]
    commit_shard(run, 0, caption_table(done, model, several=False), failed, Shard(images, pa.table({})))


def report(path: Path, uris: list[str], version: int) -> Path:
    """An inventory report in CSV that names these objects."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["bucket", "name", "generation", "size", "contentType"])
        writer.writerows(["b", uri.removeprefix("gs://b/"), version, 10, f"image/{uri[-5]}"] for uri in uris)
    return path


def planned(config: JobConfig) -> tuple[PlannedRun, list[dict[str, Any]]]:
    """The plan as stored: each image, its shard, and what it carries."""
    run_graph = functools.partial(_run_planning, config, beam_options(config, []))
    prepared = plan_run(config, "model-1", list_inputs(config), run_graph)
    reader = PlanReader(prepared.run)
    shards = [reader.shard(number) for number in range(prepared.plan.shards)]
    return prepared, [
        dataclasses.asdict(image) | carried | {"shard": number}
        for number, shard in enumerate(shards)
        for image, carried in zip(shard.images, shard.carried.to_pylist(), strict=True)
    ]


@pytest.fixture
def config(tmp_path: Path) -> JobConfig:
    """A night over objects that are new, done, changed, failed before, or listed twice."""
    uris = [f"gs://b/{number}.jpg" for number in range(1000)]
    output = tmp_path / "out"
    earlier_run(output, "model-1", dict.fromkeys(uris[:300], "1"), dict.fromkeys(uris[300:320], False))
    earlier_run(output, "model-1", dict.fromkeys(uris[400:500], "2"), dict.fromkeys(uris[320:340], True))
    earlier_run(output, "another", dict.fromkeys(uris, "1"), {})
    first = report(tmp_path / "1.csv", uris[::-1], version=1)
    second = report(tmp_path / "2.csv", uris[::2], version=2)
    return JobConfig(
        (str(first), str(second)),
        str(output),
        carry_columns=("contentType",),
        shard_size=7,
        allow_buckets=("gs://b",),
    )


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(difference, "BUCKET_ROWS", 90)
    monkeypatch.setattr(difference, "_FILE_ROWS", 130)


@pytest.mark.parametrize("retry", ["transient", "all", "none"])
def test_both_ways_give_the_same_plan(config: JobConfig, retry: str, small_pieces: None) -> None:
    config = dataclasses.replace(config, retry=retry)
    here, plan_here = planned(config)
    there, plan_there = planned(dataclasses.replace(config, rows_in_memory=100))
    assert plan_there == plan_here
    assert (there.plan, there.skipped) == (here.plan, here.skipped)
    failures_that_stand = {"transient": 20, "all": 0, "none": 40}[retry]
    assert here.skipped == 300 + failures_that_stand
    assert here.plan.inputs == 1000 - here.skipped
    assert not any(Path(there.run.planning).glob("*"))


def test_nothing_to_do_is_the_same_too(config: JobConfig, small_pieces: None) -> None:
    limited = dataclasses.replace(config, filters=Filters(include=("[0-9].jpg",)), rows_in_memory=3)
    there, plan = planned(limited)
    assert plan == []
    assert (there.plan.inputs, there.plan.shards, there.skipped) == (0, 0, 10)
    assert not Path(there.run.manifest).exists()


def test_a_listing_that_breaks_off_leaves_nothing(config: JobConfig, tmp_path: Path, small_pieces: None) -> None:
    (tmp_path / "2.csv").write_text("bucket,name\nb,\n")
    before = set((tmp_path / "out" / "runs").rglob("*.parquet"))
    with pytest.raises(InputError, match="row 1 has no name"):
        planned(dataclasses.replace(config, rows_in_memory=100, carry_columns=()))
    assert set((tmp_path / "out" / "runs").rglob("*.parquet")) == before
