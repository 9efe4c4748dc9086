"""Shards through fetch, decode, caption and write, overlapped: the heart of the job, one for each process.

    submit ──> fetch threads ──> decode threads ──> arrivals ──> the model's thread ──> the writer's thread
               (bytes)           (pixels)           (queue)      (batches)              (one file a shard)

Images of the next shard are fetched and decoded while the model works on the last ones of this shard, and a batch may
hold images of both; a shard's file is written while the model goes on. The model waits only where images come too
slowly.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from beam_job.config import JobConfig
from beam_job.decode_pool import DecodePool
from beam_job.images import FetchedImage, decode, fetch
from beam_job.inputs import allowed_of
from beam_job.plan import Shard
from beam_job.progress import ProgressFile
from beam_job.records import CaptionedImage, DecodedImage, Failure, ImageInput, now
from beam_job.run import Run
from beam_job.sink import ShardReport, caption_table, commit_shard
from model import Caption, pad_batch

T = TypeVar("T")
_UNKNOWN_SIZE = 2**20  # bytes that an image from a list counts for until it is fetched


class ImageCaptioner(Protocol):
    """What the engine asks of a model."""

    version: str

    def caption(self, images: npt.NDArray[np.uint8]) -> list[tuple[Caption, ...]]:
        """uint8[B, S, S, 3] -> for each image its captions, the best first."""


@dataclass(frozen=True)
class ShardResult:
    """A committed shard and the seconds spent on it by stage, summed over threads.

    The stages are "fetch", "decode", "caption" and "write"; "wait" is the model's time without an image to work on.
    """

    report: ShardReport
    seconds: Mapping[str, float]


class _OpenShard:
    """A shard under way: rows as they come, and the future that its submitter waits for."""

    def __init__(self, number: int, shard: Shard) -> None:
        self.number = number
        self.shard = shard
        self.captioned: list[CaptionedImage] = []
        self.failures: list[Failure] = []
        self.done: Future[ShardResult] = Future()
        self.opened = time.monotonic()
        self._seconds: Counter[str] = Counter()
        self._lock = threading.Lock()

    def spent(self, stage: str, seconds: float) -> None:
        """Adds to a stage's time; any thread may call it."""
        with self._lock:
            self._seconds[stage] += seconds  # type: ignore[assignment]

    def add(self, outcome: CaptionedImage | Failure) -> bool:
        """Takes an image's row; True with the last one."""
        if isinstance(outcome, Failure):
            self.failures.append(outcome)
        else:
            self.captioned.append(outcome)
        return len(self.captioned) + len(self.failures) == len(self.shard.images)

    def commit(self, run: Run, model_version: str, several: bool) -> None:
        """Writes the shard's files, rows in the plan's order, and resolves `done`."""
        try:
            started = time.monotonic()
            for rows in (self.captioned, self.failures):
                rows.sort(key=lambda row: self.shard.place[row.uri])
            carried = self.shard.carried_by(row.uri for row in self.captioned)
            captions = caption_table(self.captioned, model_version, several, carried)
            report = commit_shard(run, self.number, captions, self.failures, self.shard)
            self.spent("write", time.monotonic() - started)
            self.done.set_result(ShardResult(report, dict(self._seconds)))
        except BaseException as error:
            self.done.set_exception(error)


class ByteBudget:
    """Bounds the bytes in flight, whatever the number of images; one image larger than all of it passes alone."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._changed = threading.Condition()

    def acquire(self, size: int) -> None:
        """Takes `size` bytes, waiting until they fit."""
        with self._changed:
            self._changed.wait_for(lambda: self._taken == 0 or self._taken + size <= self._limit)
            self._taken += size

    def release(self, size: int) -> None:
        """Gives `size` bytes back; takes them without waiting where it is negative (an image larger than thought)."""
        with self._changed:
            self._taken -= size
            self._changed.notify_all()


class Engine:
    """Runs shards; `submit` and `close` may be called from any thread.

    Args:
      config: batch size, threads, captions an image.
      run: where the shards' files go.
      captioner: called from one thread only, always with `config.batch_size` images.
      input_size: side of the captioner's images, in pixels.
      progress: told of every image that is done.
    """

    def __init__(
        self, config: JobConfig, run: Run, captioner: ImageCaptioner, input_size: int, progress: ProgressFile
    ) -> None:
        self._run = run
        self._captioner = captioner
        self._batch_size = config.batch_size
        self._several = config.decoding.num_captions > 1
        self._progress = progress
        self._fetch_timeout = config.fetch_timeout
        self._allowed = allowed_of(config)
        self._filters = config.filters
        self._budget = ByteBudget(config.in_flight_bytes)
        self._pixel_bytes = 3 * input_size**2
        self._in_flight = 0
        self._in_flight_lock = threading.Lock()
        self._arrivals: queue.Queue[tuple[_OpenShard, DecodedImage | Failure] | None] = queue.Queue()
        self._fetchers = ThreadPoolExecutor(config.fetch_threads, "fetch")
        self._decoders = ThreadPoolExecutor(config.decode_threads, "decode")
        self._decode_pool = DecodePool(config.decode_threads, input_size, config.max_pixels)
        self._writer = ThreadPoolExecutor(1, "write")
        self._model_thread = threading.Thread(target=self._caption_arrivals, name="caption", daemon=True)
        self._model_thread.start()

    def submit(self, number: int, shard: Shard) -> Future[ShardResult]:
        """Takes a shard in, waiting while too many bytes are ahead of the model.

        Returns:
          a future that is resolved once the shard's files are written.
        """
        opened = _OpenShard(number, shard)
        for image in shard.images:
            taken = _UNKNOWN_SIZE if image.size is None else image.size
            self._budget.acquire(taken + self._pixel_bytes)
            with self._in_flight_lock:
                self._in_flight += 1
            self._fetchers.submit(self._fetch, opened, image, taken)
        return opened.done

    def close(self) -> None:
        """Finishes what was submitted and ends all threads."""
        self._fetchers.shutdown()
        self._decoders.shutdown()
        self._decode_pool.close()
        self._arrivals.put(None)
        self._model_thread.join()
        self._writer.shutdown()
        self._progress.close()

    def _fetch(self, shard: _OpenShard, image: ImageInput, taken: int) -> None:
        limits = (self._fetch_timeout, self._allowed, self._filters)
        fetched = _timed(shard, "fetch", image, lambda: fetch(image, *limits))
        if isinstance(fetched, Failure):
            self._budget.release(taken)
            self._arrivals.put((shard, fetched))
        else:
            self._budget.release(taken - len(fetched.data))
            self._decoders.submit(self._decode, shard, fetched)

    def _decode(self, shard: _OpenShard, fetched: FetchedImage) -> None:
        decoded = _timed(shard, "decode", fetched.input, lambda: decode(fetched, self._decode_pool))
        self._budget.release(len(fetched.data))
        self._arrivals.put((shard, decoded))

    def _caption_arrivals(self) -> None:
        """The model's thread: collects a batch, and runs it when it is full or when nothing more is on its way."""
        batch: list[tuple[_OpenShard, DecodedImage]] = []
        idle_since = time.monotonic()
        while (arrival := self._arrivals.get()) is not None:
            shard, outcome = arrival
            shard.spent("wait", time.monotonic() - max(idle_since, shard.opened))
            self._budget.release(self._pixel_bytes)
            with self._in_flight_lock:
                self._in_flight -= 1
                last = self._in_flight == 0
            if isinstance(outcome, Failure):
                self._finish(shard, outcome)
            else:
                batch.append((shard, outcome))
            if len(batch) == self._batch_size or (batch and last):
                self._caption(batch)
                batch = []
            idle_since = time.monotonic()

    def _caption(self, batch: list[tuple[_OpenShard, DecodedImage]]) -> None:
        started = time.monotonic()
        outcomes = self._caption_or_split([image for _, image in batch])
        share = (time.monotonic() - started) / len(batch)
        for (shard, _), outcome in zip(batch, outcomes, strict=True):
            shard.spent("caption", share)
            self._finish(shard, outcome)

    def _caption_or_split(self, images: list[DecodedImage]) -> list[CaptionedImage | Failure]:
        """Captions a batch; where that fails, its halves, down to the image that is to blame."""
        try:
            captions = self._captioner.caption(pad_batch([image.pixels for image in images], self._batch_size))
        except Exception as error:
            if len(images) == 1:
                return [Failure.of(images[0].input.uri, "caption", error, images[0].object_version)]
            half = len(images) // 2
            return self._caption_or_split(images[:half]) + self._caption_or_split(images[half:])
        time_of_batch = now()
        return [
            CaptionedImage(image.input.uri, found, image.width, image.height, image.object_version, time_of_batch)
            for image, found in zip(images, captions, strict=False)  # the batch may be padded
        ]

    def _finish(self, shard: _OpenShard, outcome: CaptionedImage | Failure) -> None:
        self._progress.add(failed=isinstance(outcome, Failure))
        if shard.add(outcome):
            self._writer.submit(shard.commit, self._run, self._captioner.version, self._several)


def _timed(shard: _OpenShard, stage: str, image: ImageInput, work: Callable[[], T | Failure]) -> T | Failure:
    """Does `work` on the shard's time; what it should have caught and did not is a failure of this image too."""
    started = time.monotonic()
    try:
        return work()
    except Exception as error:
        return Failure.of(image.uri, stage, error, image.object_version)
    finally:
        shard.spent(stage, time.monotonic() - started)
