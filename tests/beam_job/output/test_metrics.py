"""What a runner's page shows of a run, and what of it the summary holds."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.runner import PipelineResult

from beam_job.config import JobConfig
from beam_job.output.metrics import RunMetrics, counters, read_metrics
from beam_job.output.summary import summarize
from beam_job.pipeline import Unattended, build_pipeline
from beam_job.planning.plan import Plan
from beam_job.planning.prepare import PlannedRun
from beam_job.planning.run import Run
from beam_job.records import METRIC_NAMESPACE
from tests.fakes import FakeCaptioner
from tests.planned import grey, planned_run


@pytest.fixture(autouse=True)
def fake_captioner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beam_job.captioning.caption_shards.load_captioner", lambda *_: FakeCaptioner())


def run_pipeline(config: JobConfig, run: Run, plan: Plan) -> PipelineResult:
    pipeline = beam.Pipeline(runner="FnApiRunner")
    build_pipeline(pipeline, config, run, plan, None)
    result = pipeline.run()
    result.wait_until_finish()
    return result


def test_images_failures_by_reason_bytes_and_the_batches_fill(tmp_path: Path) -> None:
    """Ten images in shards of ten, two of them deleted: eight to batches of 5, of which one has 5 and one 3."""
    result = run_pipeline(*planned_run(str(tmp_path), 10, missing=2, shard_size=10, batch_size=5))
    found = counters(result)
    assert {name: value for name, value in found.items() if not name.endswith("_milliseconds")} == {
        "images": 10,
        "captions": 8,
        "failures": 2,
        "failures_fetch_FileNotFoundError": 2,
        "shards with fake float32 5": 1,
    }
    of_the_model = {f"model_{stage}" for stage in ("model", "fetch", "decode", "write")}
    stages = {"fetch", "decode", "caption", "write"} | of_the_model
    assert {name.removesuffix("_milliseconds") for name in found if name.endswith("_milliseconds")} == stages
    sizes = [len(grey(brightness)) for brightness in range(10, 18)]
    [shown] = [
        metric.result
        for metric in result.metrics().query()["distributions"]
        if (metric.key.metric.namespace, metric.key.metric.name) == (METRIC_NAMESPACE, "image_bytes")
    ]
    assert (shown.count, shown.sum, shown.min, shown.max) == (8, sum(sizes), min(sizes), max(sizes))
    summed = read_metrics(result)
    assert summed.bytes_fetched == sum(sizes)
    assert summed.batch_fill == pytest.approx((5 / 5 + 3 / 5) / 2)
    assert set(summed.seconds_by_stage) == stages


def test_rows_of_an_earlier_attempt_are_shown_and_its_work_is_not(tmp_path: Path) -> None:
    planned = planned_run(str(tmp_path), 6, missing=1)
    run_pipeline(*planned)
    again = run_pipeline(*planned)
    assert {name: value for name, value in counters(again).items() if value} == {
        "images": 6,
        "captions": 5,
        "failures": 1,
        "failures_fetch_FileNotFoundError": 1,
    }
    assert (read_metrics(again).bytes_fetched, read_metrics(again).batch_fill) == (0, None)


def test_the_rate_of_a_resumed_run_is_that_of_its_last_attempt(tmp_path: Path) -> None:
    """Six of ten images in five shards were done before somebody killed the run."""
    config, run, plan = planned_run(str(tmp_path), 10, missing=1, shard_size=2)
    run_pipeline(config, run, plan)
    for shard in (1, 4):
        Path(run.captions(shard)).unlink()
    metrics = read_metrics(run_pipeline(config, run, plan))

    def rate(metrics: RunMetrics, again: bool = True) -> float | None:
        return summarize(config, PlannedRun(run, plan, 0, again), 2.0, metrics, "fake-1").images_per_second

    assert metrics.images == 4
    assert rate(metrics) == 2.0
    assert rate(read_metrics(run_pipeline(config, run, plan))) is None  # all was done, but for the summary
    assert rate(RunMetrics()) is None  # where nobody waits, nobody knows
    assert rate(RunMetrics(), again=False) == 5.0


def run_unattended(config: JobConfig, run: Run, plan: Plan) -> dict[str, Any]:
    """The summary that the graph has written."""
    unattended = Unattended(PlannedRun(run, plan, 5, resumed=False), "fake-1", started=time.time() - 60)
    pipeline = beam.Pipeline(runner="FnApiRunner")
    build_pipeline(pipeline, config, run, plan, None, unattended)
    pipeline.run().wait_until_finish()
    return json.loads(Path(run.summary).read_text())


def test_a_graph_that_nobody_waits_for_sums_itself_up_after_its_last_shard(tmp_path: Path) -> None:
    config, run, plan = planned_run(str(tmp_path), 10, missing=2)
    summary = run_unattended(config, run, plan)
    assert (summary["inputs"], summary["captions"], summary["failures"], summary["skipped"]) == (10, 8, 2, 5)
    assert 60 < summary["seconds"] < 600
    assert Path(run.success).exists()


def test_too_many_failures_fail_the_job_that_nobody_waits_for(tmp_path: Path) -> None:
    """Whoever watches jobs sees it; the run has ended all the same, and the next night plans anew."""
    config, run, plan = planned_run(str(tmp_path), 10, missing=2, max_failure_ratio=0.1)
    with pytest.raises(RuntimeError, match=r"20% of the images failed, more than --max_failure_ratio=0\.1"):
        run_unattended(config, run, plan)
    assert json.loads(Path(run.summary).read_text())["failures"] == 2
    assert not Path(run.success).exists()
