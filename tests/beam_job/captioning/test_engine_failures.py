"""What an engine makes of failures: of one image, of an output, of a captioner that breaks off or hangs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from beam_job.captioning import batch_runner, open_shard
from beam_job.captioning.open_shard import OpenShard
from beam_job.loading.images import fetch
from beam_job.planning.run import Run
from beam_job.records import ImageInput
from beam_job.storage import StorageError
from model import CaptionerError
from tests.engine_runs import SIZE, engine_for, grey, rows, run_shards, shard_of
from tests.fakes import FakeCaptioner


def test_a_gpu_that_breaks_off_leaves_nobody_waiting(run: Run, tmp_path: Path) -> None:
    engine = engine_for(run, FakeCaptioner(engine="xla", poison=13, error=SystemExit(1)))
    future = engine.submit(0, shard_of(*(grey(tmp_path, brightness) for brightness in range(10, 30))))
    with pytest.raises(CaptionerError, match=r"the captioner called exit\(1\)"):
        future.result(timeout=60)
    engine.close()
    assert not Path(run.captions(0)).exists()


def test_the_image_that_breaks_a_batch_is_found(run: Run, tmp_path: Path) -> None:
    shard = [grey(tmp_path, brightness) for brightness in range(10, 20)]
    [result] = run_shards(run, FakeCaptioner(poison=13), shard)
    assert result.report.captions == 9
    [failure] = result.report.failures
    assert (Path(failure.uri).stem, failure.stage, failure.error_type) == ("13", "caption", "RuntimeError")
    assert failure.error_message == "cannot digest this image"


@pytest.mark.parametrize("engine", ["fake", "xla"])
def test_failures_of_each_stage_leave_the_others_alone(run: Run, tmp_path: Path, engine: str) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    shard = [
        grey(tmp_path, 10),
        ImageInput("ftp://host/x.jpg"),
        ImageInput(str(tmp_path / "missing.jpg")),
        ImageInput(str(tmp_path / "text.jpg")),
        ImageInput(str(tmp_path)),
        ImageInput("nul\0byte.jpg"),
        grey(tmp_path, 20),
    ]
    [result] = run_shards(run, FakeCaptioner(engine=engine), shard)
    assert [row["caption"] for row in rows(run, 0)] == ["brightness 10", "brightness 20"]
    assert [(failure.uri, failure.stage, failure.error_type) for failure in result.report.failures] == [
        ("ftp://host/x.jpg", "list", "UnknownSchemeError"),
        (str(tmp_path / "missing.jpg"), "fetch", "FileNotFoundError"),
        (str(tmp_path / "text.jpg"), "decode", "ImageError"),
        (str(tmp_path), "fetch", "NotAFile"),
        ("nul\0byte.jpg", "fetch", "ValueError"),
    ]


def test_a_shard_of_failures_alone_is_committed(run: Run, tmp_path: Path) -> None:
    grey(tmp_path, 10)  # so that the folder is not empty, as the place of an unmounted disk is
    [result] = run_shards(run, FakeCaptioner(), [ImageInput(str(tmp_path / "missing.jpg"))])
    assert result.report.captions == 0
    assert rows(run, 0) == []


def test_an_output_that_cannot_be_written_reaches_the_submitter(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where the folder should be")
    engine = engine_for(Run(str(tmp_path / "out"), "r1"), FakeCaptioner())
    future = engine.submit(0, shard_of(grey(tmp_path, 10)))
    engine.close()
    with pytest.raises(Exception, match="out"):
        future.result(timeout=60)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        pytest.param(SystemExit(0), r"the captioner called exit\(0\)", id="exit"),
        pytest.param(KeyboardInterrupt(), "the model's thread was interrupted", id="interrupt"),
    ],
)
def test_a_captioner_that_breaks_off_leaves_nobody_waiting(
    run: Run, tmp_path: Path, error: BaseException, message: str
) -> None:
    """Neither those whose images it had, nor those whose images wait for room, nor those that come later."""
    gate = threading.Semaphore(0)
    engine = engine_for(run, FakeCaptioner(poison=13, error=error, gate=gate), in_flight_bytes=10 * 3 * SIZE**2)
    sized = [ImageInput(image.uri, size=1) for image in (grey(tmp_path, brightness) for brightness in range(10, 60))]
    future = engine.submit(0, shard_of(*sized))
    gate.release(100)
    with pytest.raises(Exception, match=message):
        future.result(timeout=60)
    with pytest.raises(Exception, match=message):
        engine.submit(1, shard_of(grey(tmp_path, 10))).result(timeout=60)
    engine.close()
    assert not Path(run.captions(0)).exists()


def test_a_batch_that_hangs_is_reported_and_fails_the_run_in_the_end(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_runner, "_REPORT_SECONDS", 0.1)
    monkeypatch.setattr(batch_runner, "_SETTLE_SECONDS", 0.1)
    progress = tmp_path / "progress"
    progress.mkdir()
    gate = threading.Semaphore(0)  # never released
    engine = engine_for(run, FakeCaptioner(gate=gate), progress, batch_timeout=1.0)
    future = engine.submit(0, shard_of(grey(tmp_path, 10)))
    with pytest.raises(
        batch_runner.BatchTimeoutError, match=r"a batch of 1 images did not finish within .*batch_timeout=1 "
    ):
        future.result(timeout=60)
    engine.close()
    [said] = progress.glob("*.said")
    assert said.read_text().count("no batch has finished for") >= 2
    gate.release()


def test_after_one_failed_commit_no_other_is_tried(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would take as long, while a bucket answers 503."""
    tried: list[int] = []
    complete = threading.Semaphore(0)

    def commit(run: Run, number: int, *_: object) -> None:
        tried.append(number)
        for _ in range(3):
            assert complete.acquire(timeout=60)
        raise StorageError("the bucket answers 503")

    def take(self: OpenShard, outcome: object, really: Any = OpenShard.add) -> bool:
        is_complete = really(self, outcome)
        if is_complete:
            complete.release()
        return is_complete

    monkeypatch.setattr(open_shard, "commit_shard", commit)
    monkeypatch.setattr(OpenShard, "add", take)
    engine = engine_for(run, FakeCaptioner())
    futures = [engine.submit(number, shard_of(grey(tmp_path, 10 + number))) for number in range(3)]
    for future in futures:
        with pytest.raises(StorageError, match="503"):
            future.result(timeout=60)
    engine.close()
    assert len(tried) == 1


def test_a_shard_that_was_complete_stands_when_the_model_breaks_off(run: Run, tmp_path: Path) -> None:
    engine = engine_for(run, FakeCaptioner(poison=30, error=SystemExit(1)))
    assert engine.submit(0, shard_of(grey(tmp_path, 10))).result(timeout=60).report.captions == 1
    with pytest.raises(CaptionerError, match="called exit"):
        engine.submit(1, shard_of(grey(tmp_path, 30))).result(timeout=60)
    engine.close()
    assert [row["caption"] for row in rows(run, 0)] == ["brightness 10"]


def test_a_library_that_exits_in_a_thread_costs_one_image(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch_or_exit(image: ImageInput, *limits: Any) -> object:
        if image.uri.endswith("11.png"):
            raise SystemExit(3)
        return fetch(image, *limits)

    monkeypatch.setattr("beam_job.loading.thread_loader.fetch", fetch_or_exit)
    [result] = run_shards(run, FakeCaptioner(), [grey(tmp_path, brightness) for brightness in range(10, 14)])
    assert result.report.captions == 3
    assert [(failure.stage, failure.error_type) for failure in result.report.failures] == [("fetch", "SystemExit")]
