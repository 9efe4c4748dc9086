"""The engines of a process: one for all threads, and never one that has failed."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from beam_job.captioning import image_engine, open_shard
from beam_job.captioning.caption_shards import CaptionShards
from beam_job.captioning.engines import ENGINES
from beam_job.config import JobConfig
from beam_job.output.sink import committed_shards
from beam_job.planning.run import Run
from beam_job.storage import StorageError
from tests.beam_job.planning.test_retries import work
from tests.fakes import FakeCaptioner
from tests.gcs_server import GcsServer
from tests.planned import planned_run


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[FakeCaptioner]:
    """The captioners that were loaded."""
    captioners: list[FakeCaptioner] = []

    def load(*_: object) -> FakeCaptioner:
        captioners.append(FakeCaptioner())
        return captioners[-1]

    monkeypatch.setattr("beam_job.captioning.caption_shards.load_captioner", load)
    return captioners


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
    assert not ENGINES._users


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


def test_two_workers_at_the_same_time_on_a_bucket(
    gcs_server: GcsServer, loaded: list[FakeCaptioner], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have all rows of a shard before either writes: the bucket's own precondition decides."""
    config, run, plan = planned_run("gs://bucket", 11, 2, fetch_threads=1, decode_threads=1)
    together, commit = threading.Barrier(2, timeout=60), open_shard.commit_shard

    def commit_together(*arguments: Any) -> object:
        together.wait()
        return commit(*arguments)

    monkeypatch.setattr(open_shard, "commit_shard", commit_together)
    with ThreadPoolExecutor(2) as workers:
        for attempt in [workers.submit(work, config, run, name, range(plan.shards)) for name in ("one", "other")]:
            attempt.result(timeout=120)
    parts = gcs_server.names(prefix="out/captions/")
    assert len(parts) == plan.shards
    assert gcs_server.count("insert", "out/captions/*") >= 2 * plan.shards
    rows = [row for name in parts for row in pq.read_table(_file(gcs_server, name))["uri"].to_pylist()]
    assert sorted(rows) == sorted(f"gs://bucket/photos/{10 + number}.png" for number in range(9))


def _file(server: GcsServer, name: str) -> Any:
    import io

    return io.BytesIO(server.data(name))
