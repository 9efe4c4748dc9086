"""Retries as Dataflow does them: each shard by two workers at the same time, and again after one that died halfway.

The workers are the real DoFn, driven through its life as a runner does it, each with an engine of its own.
"""

from __future__ import annotations

import io
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from beam_job.captioning import open_shard
from beam_job.captioning.caption_shards import CaptionShards
from beam_job.config import JobConfig
from beam_job.output import sink
from beam_job.output.metrics import RunMetrics
from beam_job.output.shard_report import ShardReport
from beam_job.output.sink import committed_shards
from beam_job.output.summary import summarize
from beam_job.planning.plan import Plan
from beam_job.planning.prepare import PlannedRun
from beam_job.planning.run import Run
from beam_job.storage import join
from beam_job.storage.local import local_path
from tests.fakes import FakeCaptioner
from tests.planned import planned_run

IMAGES, MISSING = 11, 2  # three shards; the last has one image that is there
POISONED = 12  # an image of the first shard that only some workers can caption


@pytest.fixture(params=["local", "gs"])
def planned(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[JobConfig, Run, Plan]:
    folder = str(tmp_path)
    if request.param == "gs":  # a server that lets an object be created once, as the emulator does not
        request.getfixturevalue("gcs_server")
        folder = "gs://bucket"
    # One thread for each step, so that a worker commits its shards in their order.
    return planned_run(folder, IMAGES, MISSING, fetch_threads=1, decode_threads=1)


@pytest.fixture(autouse=True)
def captioners(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCaptioner]:
    """One of two workers cannot read an image that the other can."""
    made = itertools.cycle([FakeCaptioner(), FakeCaptioner(poison=POISONED)])
    monkeypatch.setattr("beam_job.captioning.caption_shards.load_captioner", lambda *_: next(made))
    return made


def work(config: JobConfig, run: Run, name: str, shards: range) -> None:
    """A worker, from its start to its end, that does these shards in one bundle."""
    worker = CaptionShards(config, run, name)  # no such folder: the name keeps the two engines of a process apart
    worker.setup()
    try:
        worker.start_bundle()
        for shard in shards:
            worker.process(shard)
        worker.finish_bundle()
    finally:
        worker.teardown()


def files(run: Run) -> dict[str, bytes]:
    """All that stands in the output, but for the run's own folder."""
    stored = [file.uri for file in run.storage.list(run.output) if "/runs/" not in file.uri]
    return {uri.removeprefix(run.output): run.storage.read(uri)[0] for uri in stored}


def uris(run: Run, table: str) -> list[str]:
    parts = [content for uri, content in files(run).items() if f"{table}/" in uri and uri.endswith(".parquet")]
    return [uri for part in parts for uri in pq.read_table(io.BytesIO(part))["uri"].to_pylist()]


def assert_whole(config: JobConfig, run: Run, plan: Plan) -> None:
    """Each URI once, a part a shard, and what the summary counts is what stands."""
    assert sorted(uris(run, "captions") + uris(run, "failures")) == _images(config)
    assert committed_shards(run) == list(range(plan.shards))
    summary = summarize(config, PlannedRun(run, plan, 0, resumed=False), 1.0, RunMetrics(), "fake-1")
    assert (summary.captions, summary.failures) == (len(uris(run, "captions")), len(uris(run, "failures")))


def test_two_workers_at_the_same_time(
    planned: tuple[JobConfig, Run, Plan], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have all rows of a shard before either writes; the one fails an image that the other captioned."""
    config, run, plan = planned
    together = threading.Barrier(2, timeout=60)
    commit = open_shard.commit_shard

    def commit_together(*arguments: Any) -> ShardReport:
        together.wait()
        return commit(*arguments)

    monkeypatch.setattr(open_shard, "commit_shard", commit_together)
    with ThreadPoolExecutor(2) as workers:
        for attempt in [workers.submit(work, config, run, name, range(plan.shards)) for name in ("one", "other")]:
            attempt.result(timeout=60)
    assert_whole(config, run, plan)
    if run.output.startswith("gs://"):  # the bucket's own precondition decided
        assert request.getfixturevalue("gcs_server").count("insert", "out/captions/*") >= 2 * plan.shards
    assert len(uris(run, "failures")) in (MISSING, MISSING + 1)  # by which of the two was first
    before = files(run)
    work(config, run, "a third", range(plan.shards))
    assert files(run) == before


@pytest.mark.parametrize("dies", ["before the file is whole", "between the two files"])
def test_a_worker_after_one_that_died_writing(
    dies: str,
    planned: tuple[JobConfig, Run, Plan],
    captioners: Iterator[FakeCaptioner],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It died at the last shard; the next gets the whole bundle again, and would caption what the first could not."""
    config, run, plan = planned
    next(captioners)  # the first worker is the one that fails an image
    last = plan.shards - 1
    with monkeypatch.context() as patch:
        if dies == "between the two files":
            patch.setattr(sink, "publish_failures", _dying_at(last, sink.publish_failures, lambda *_: None))
        else:
            patch.setattr(open_shard, "commit_shard", _dying_at(last, open_shard.commit_shard, _write_half))
        with pytest.raises(OSError, match="the machine is gone"):
            work(config, run, "one", range(plan.shards))
    before = files(run)
    assert sorted(uris(run, "captions") + uris(run, "failures")) != _images(config)
    work(config, run, "next", range(plan.shards))
    assert_whole(config, run, plan)
    assert len(uris(run, "failures")) == MISSING + 1  # what stood is left as it was
    after = files(run)
    assert {uri: after[uri] for uri in before} == before


def _images(config: JobConfig) -> list[str]:
    return [join(config.inputs[0], f"{10 + number}.png") for number in range(IMAGES)]


def _dying_at(last: int, step: Callable[..., Any], leave: Callable[..., None]) -> Callable[..., Any]:
    """`step`, but for shard `last`: there it leaves something behind and fails."""

    def dying(run: Run, number: int, *rest: Any) -> Any:
        if number == last:
            leave(run, number)
            raise OSError("the machine is gone")
        return step(run, number, *rest)

    return dying


def _write_half(run: Run, number: int) -> None:
    """A local file is written under another name first; half an upload to a bucket leaves nothing."""
    if not run.output.startswith("gs://"):
        folder, name = local_path(run.captions(number)).rsplit("/", 1)
        Path(folder, f".{name}.0123456789abcdef.tmp").write_bytes(b"PAR1 and so")
