"""Shards through the engine, with real files and a fake captioner: overlap, bounds, and what becomes of failures."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beam_job.captioning import batch_runner, batches, open_shard
from beam_job.captioning.budgets import FailureBudget
from beam_job.captioning.engine import Engine
from beam_job.captioning.open_shard import OpenShard
from beam_job.captioning.progress_file import ProgressFile
from beam_job.cli.progress import read_progress
from beam_job.config import JobConfig
from beam_job.loading import loader as loading
from beam_job.loading.images import fetch
from beam_job.output.metrics import ShardResult
from beam_job.planning.plan import Shard
from beam_job.planning.run import Run
from beam_job.records import ImageInput
from beam_job.storage import StorageError
from model import CaptionerError
from tests.fakes import FakeCaptioner

SIZE = 7
BATCH = 5


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(str(tmp_path / "out"), "r1")


def grey(folder: Path, brightness: int) -> ImageInput:
    """An image file of one brightness."""
    path = folder / f"{brightness}.png"
    Image.new("RGB", (30, 20), (brightness,) * 3).save(path)
    return ImageInput(str(path))


def shard_of(*images: ImageInput) -> Shard:
    """A shard with a carried column: each image's place."""
    return Shard(images, pa.table({"place": pa.array(range(len(images)), pa.int16())}))


def engine_for(run: Run, captioner: FakeCaptioner, progress_folder: Path | None = None, **options: Any) -> Engine:
    config = JobConfig(
        inputs=(str(Path(run.output).parent),),
        output=run.output,
        fetch_threads=3,
        decode_threads=2,
        **options,
    )
    progress = ProgressFile(str(progress_folder) if progress_folder else None)
    failures = FailureBudget(config.max_failure_ratio, 1000)
    return Engine(config, run, captioner, SIZE, BATCH, progress, failures, gpu=captioner.engine == "xla")


def run_shards(run: Run, captioner: FakeCaptioner, *shards: list[ImageInput]) -> list[ShardResult]:
    engine = engine_for(run, captioner)
    futures = [engine.submit(number, shard_of(*shard)) for number, shard in enumerate(shards)]
    engine.close()
    return [future.result(timeout=60) for future in futures]


def rows(run: Run, shard: int) -> list[dict]:
    return pq.read_table(run.captions(shard), partitioning=None).to_pylist()


def test_each_image_gets_its_own_caption_in_the_order_of_the_plan(run: Run, tmp_path: Path) -> None:
    shard = [grey(tmp_path, brightness) for brightness in range(10, 33)]
    [result] = run_shards(run, FakeCaptioner(), shard)
    assert result.report.captions == 23
    assert [(Path(row["uri"]).stem, row["caption"]) for row in rows(run, 0)] == [
        (str(brightness), f"brightness {brightness}") for brightness in range(10, 33)
    ]
    assert [row["place"] for row in rows(run, 0)] == list(range(23))
    assert {(row["width"], row["height"], row["model_version"]) for row in rows(run, 0)} == {(30, 20, "fake-1")}


def test_every_batch_has_the_same_size(run: Run, tmp_path: Path) -> None:
    captioner = FakeCaptioner()
    run_shards(run, captioner, [grey(tmp_path, brightness) for brightness in range(10, 18)])
    assert [len(batch) for batch in captioner.batches] == [BATCH] * len(captioner.batches)


def test_a_batch_holds_the_end_of_a_shard_and_the_start_of_the_next(run: Run, tmp_path: Path) -> None:
    """While the model is held, the next shard's images arrive and join the first shard's last ones."""
    gate = threading.Semaphore(0)
    captioner = FakeCaptioner(gate=gate)
    engine = engine_for(run, captioner)
    futures = [engine.submit(0, shard_of(*(grey(tmp_path, b) for b in range(10, 17))))]
    futures.append(engine.submit(1, shard_of(*(grey(tmp_path, b) for b in range(50, 58)))))
    gate.release(100)
    engine.close()
    assert [future.result(timeout=60).report.captions for future in futures] == [7, 8]
    assert any(min(batch) < 20 and max(batch) >= 50 for batch in captioner.batches)
    assert len(captioner.batches) == 3  # 15 images, none padded


class Meeting(FakeCaptioner):
    """A batch is done when another one is under way too: alone it would wait for ever."""

    def __init__(self) -> None:
        super().__init__(engine="xla")
        self.meeting = threading.Barrier(2)

    def caption(self, images: np.ndarray) -> list:
        self.meeting.wait(60)
        return super().caption(images)


def test_a_gpu_has_two_batches_at_the_same_time(run: Run, tmp_path: Path) -> None:
    [result] = run_shards(run, Meeting(), [grey(tmp_path, brightness) for brightness in range(10, 10 + 4 * BATCH)])
    assert result.report.captions == 4 * BATCH
    assert [row["caption"] for row in rows(run, 0)] == [f"brightness {b}" for b in range(10, 10 + 4 * BATCH)]


@pytest.mark.parametrize("count", [1, 2 * BATCH + 1, 4 * BATCH])
def test_every_image_has_its_row_where_two_batches_run(run: Run, tmp_path: Path, count: int) -> None:
    """With an image that breaks its batch, too little memory for the first size, and the last batch not full."""
    captioner = FakeCaptioner(engine="xla", poison=12, fits=3, out_of_memory=MemoryError())
    [result] = run_shards(run, captioner, [grey(tmp_path, brightness) for brightness in range(10, 10 + count)])
    broken = [failure.uri for failure in result.report.failures]
    assert [Path(uri).stem for uri in broken] == ["12"] * (count > 2)
    assert [row["caption"] for row in rows(run, 0)] == [f"brightness {b}" for b in range(10, 10 + count) if b != 12]


def test_a_gpu_that_breaks_off_leaves_nobody_waiting(run: Run, tmp_path: Path) -> None:
    engine = engine_for(run, FakeCaptioner(engine="xla", poison=13, error=SystemExit(1)))
    future = engine.submit(0, shard_of(*(grey(tmp_path, brightness) for brightness in range(10, 30))))
    with pytest.raises(CaptionerError, match=r"the captioner called exit\(1\)"):
        future.result(timeout=60)
    engine.close()
    assert not Path(run.captions(0)).exists()


def test_images_ahead_of_the_model_are_bounded(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the model is held, no more is fetched than fits into the bytes in flight and into its batches."""
    fetched, room = [], 30
    full = threading.Event()

    def counting_fetch(image: ImageInput, *limits: Any) -> object:
        fetched.append(image.uri)
        if len(fetched) >= room:
            full.set()
        return fetch(image, *limits)

    monkeypatch.setattr(loading, "fetch", counting_fetch)
    gate = threading.Semaphore(0)
    images = [grey(tmp_path, brightness) for brightness in range(10, 110)]
    # A file's bytes are given back once it is decoded; the pixels' when the model's thread takes them.
    largest = max(Path(image.uri).stat().st_size for image in images)
    engine = engine_for(run, FakeCaptioner(gate=gate), in_flight_bytes=room * 3 * SIZE**2 + 3 * largest)
    shard = shard_of(*(ImageInput(image.uri, size=Path(image.uri).stat().st_size) for image in images))
    future = engine.submit(0, shard)
    assert full.wait(60)
    gate.acquire(timeout=0.2)  # more would come now, if more could
    in_batches = 2 * BATCH + 1  # a batch that runs, a full one that waits, and the image just drawn
    assert len(fetched) <= room + 3 + 3 * largest // (3 * SIZE**2) + in_batches < len(images)
    gate.release(100)
    assert future.result(timeout=60).report.captions == len(images)
    engine.close()


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


@pytest.mark.parametrize(
    ("stage", "module", "step"),
    [
        pytest.param("fetch", loading, "fetch", id="fetch"),
        pytest.param("decode", loading, "decode", id="decode"),
        pytest.param("model", batches, "pad_batch", id="model"),
        pytest.param("write", open_shard, "commit_shard", id="write"),
    ],
)
def test_the_stage_that_holds_everything_up_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, module: ModuleType, step: str
) -> None:
    """The stage is held with all images in it: the time from there until it is let go is on its account."""
    reached, held, work = threading.Event(), threading.Event(), getattr(module, step)

    def gated(*arguments: Any) -> Any:
        reached.set()
        assert held.wait(60)
        return work(*arguments)

    monkeypatch.setattr(module, step, gated)
    engine = engine_for(run, FakeCaptioner())
    future = engine.submit(0, shard_of(grey(tmp_path, 10)))
    assert reached.wait(60)
    since = time.monotonic()
    (tmp_path / "other work").write_text("meanwhile")
    spent = time.monotonic() - since
    held.set()
    engine.close()
    assert future.result(timeout=60).model_seconds[stage] >= spent > 0


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

    monkeypatch.setattr("beam_job.loading.loader.fetch", fetch_or_exit)
    [result] = run_shards(run, FakeCaptioner(), [grey(tmp_path, brightness) for brightness in range(10, 14)])
    assert result.report.captions == 3
    assert [(failure.stage, failure.error_type) for failure in result.report.failures] == [("fetch", "SystemExit")]


def test_progress_and_times_are_counted(run: Run, tmp_path: Path) -> None:
    progress = tmp_path / "progress"
    progress.mkdir()
    engine = engine_for(run, FakeCaptioner(), progress)
    future = engine.submit(0, shard_of(grey(tmp_path, 10), grey(tmp_path, 11), ImageInput("gone.jpg")))
    engine.close()
    assert read_progress(str(progress)) == (3, 1)
    assert set(future.result().seconds) == {"fetch", "decode", "caption", "write"}
    assert all(seconds >= 0 for seconds in future.result().seconds.values())


def test_carried_columns_stay_with_their_images(run: Run, tmp_path: Path) -> None:
    images = [grey(tmp_path, 10), ImageInput("gone.jpg"), grey(tmp_path, 12)]
    run_shards(run, FakeCaptioner(), images)
    assert [(row["caption"], row["place"]) for row in rows(run, 0)] == [("brightness 10", 0), ("brightness 12", 2)]
