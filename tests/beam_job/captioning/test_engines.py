"""The engines of a process: one for all threads, and never one that has failed."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from beam_job.captioning import image_engine, open_shard
from beam_job.captioning.caption_shards import CaptionShards
from beam_job.captioning.engines import ENGINES
from beam_job.config import JobConfig
from beam_job.output.sink import committed_shards
from beam_job.planning.run import Run
from beam_job.storage import StorageError
from tests.fakes import FakeCaptioner
from tests.planned import planned_run


def started(config: JobConfig, run: Run) -> CaptionShards:
    """The DoFn of one of a runner's threads."""
    worker = CaptionShards(config, run)
    worker.setup()
    return worker


def bundle(worker: CaptionShards, *shards: int) -> None:
    worker.start_bundle()
    for shard in shards:
        worker.process(shard)
    worker.finish_bundle()


def test_threads_share_one_engine_and_the_last_one_closes_it(tmp_path: Path, loaded: list[FakeCaptioner]) -> None:
    config, run, plan = planned_run(str(tmp_path), 8)
    workers = [started(config, run), started(config, run)]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(bundle, workers, range(plan.shards)))
    assert len(loaded) == 1
    for worker in workers:
        worker.teardown()
    assert committed_shards(run) == [0, 1]
    bundle(late := started(config, run), 0)
    late.teardown()
    assert len(loaded) == 2


def test_a_failed_engine_is_not_handed_out_again(
    tmp_path: Path, loaded: list[FakeCaptioner], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One commit fails; the bundle is tried again while another thread still holds the engine that failed with it."""
    config, run, plan = planned_run(str(tmp_path), 12)
    users = dict(ENGINES._users)
    attempts, commit = itertools.count(), open_shard.commit_shard

    def fail_once(*arguments: Any) -> object:
        if next(attempts) == 0:
            raise StorageError("the bucket answers 503")
        return commit(*arguments)

    monkeypatch.setattr(open_shard, "commit_shard", fail_once)
    one, other = started(config, run), started(config, run)
    with pytest.raises(StorageError, match="503"):
        bundle(one, 0)
    one.teardown()  # runners throw a DoFn away whose bundle has failed
    again = started(config, run)
    bundle(again, 0)  # the second attempt of four
    bundle(other, 1)  # another bundle's first
    bundle(again, 2)
    again.teardown()
    other.teardown()
    assert committed_shards(run) == list(range(plan.shards))
    assert len(loaded) == 1  # a device may not have room for a second model
    assert users == ENGINES._users


def test_a_captioner_that_hangs_is_not_given_to_the_next_engine(
    tmp_path: Path, loaded: list[FakeCaptioner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_engine, "_SETTLE_SECONDS", 0.1)
    monkeypatch.setattr("beam_job.captioning.batch_runner._SETTLE_SECONDS", 0.1)
    config, run, _ = planned_run(str(tmp_path), 4, batch_timeout=1.0)
    one, other = started(config, run), started(config, run)
    loaded[0].gate = threading.Semaphore(0)
    with pytest.raises(RuntimeError, match="did not finish within --batch_timeout=1 "):
        bundle(one, 0)
    one.teardown()
    again = started(config, run)
    bundle(again, 0)
    assert len(loaded) == 2
    loaded[0].gate.release()
    again.teardown()
    other.teardown()
