"""Shards through the engine, with real files and a fake captioner: order, overlap, bounds, times."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from beam_job.captioning import batches, open_shard
from beam_job.cli.progress import read_progress
from beam_job.loading import thread_loader
from beam_job.loading.images import fetch
from beam_job.planning.run import Run
from beam_job.records import ImageInput
from tests.engine_runs import BATCH, SIZE, engine_for, grey, rows, run_shards, shard_of
from tests.fakes import FakeCaptioner


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


def test_images_ahead_of_the_model_are_bounded(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the model is held, no more is fetched than fits into the bytes in flight and into its batches."""
    fetched, room = [], 30
    full = threading.Event()

    def counting_fetch(image: ImageInput, *limits: Any) -> object:
        fetched.append(image.uri)
        if len(fetched) >= room:
            full.set()
        return fetch(image, *limits)

    monkeypatch.setattr(thread_loader, "fetch", counting_fetch)
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


@pytest.mark.parametrize(
    ("stage", "module", "step"),
    [
        pytest.param("fetch", thread_loader, "fetch", id="fetch"),
        pytest.param("decode", thread_loader, "decode", id="decode"),
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
