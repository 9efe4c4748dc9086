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
from typing import TypeVar

from beam_job.batches import BatchCaptioner, ImageCaptioner
from beam_job.config import JobConfig
from beam_job.decode_pool import DecodePool
from beam_job.images import FetchedImage, decode, fetch
from beam_job.inputs import allowed_of
from beam_job.plan import Shard
from beam_job.progress import ProgressFile
from beam_job.records import CaptionedImage, DecodedImage, Failure, ImageInput
from beam_job.run import Run
from beam_job.sink import ShardReport, caption_table, commit_shard

T = TypeVar("T")
_UNKNOWN_SIZE = 2**20  # bytes that an image from a list counts for until it is fetched


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
      captioner: called from one thread only, in batches of one size.
      input_size: side of the captioner's images, in pixels.
      progress: told of every image that is done, and of what people should know.
    """

    def __init__(
        self, config: JobConfig, run: Run, captioner: ImageCaptioner, input_size: int, progress: ProgressFile
    ) -> None:
        self._run = run
        self._model_version = captioner.version
        self._batches = BatchCaptioner(captioner, config.batch_size, progress.tell)
        self._several = config.decoding.num_captions > 1
        self._progress = progress
        self._fetch_timeout = config.fetch_timeout
        self._allowed = allowed_of(config)
        self._filters = config.filters
        self._budget = ByteBudget(config.in_flight_bytes)
        self._pixel_bytes = 3 * input_size**2
        self._in_flight = 0
        self._open: set[_OpenShard] = set()
        self._broken: BaseException | None = None
        self._lock = threading.Lock()  # of the three above
        self._arrivals: queue.Queue[tuple[_OpenShard, DecodedImage | Failure] | None] = queue.Queue()
        self._fetchers = ThreadPoolExecutor(config.fetch_threads, "fetch")
        self._decoders = ThreadPoolExecutor(config.decode_threads, "decode")
        self._decode_pool = DecodePool(config.decode_threads, input_size, config.max_pixels)
        self._writer = ThreadPoolExecutor(1, "write")
        self._model_thread = threading.Thread(target=self._model_loop, name="caption", daemon=True)
        self._model_thread.start()

    def submit(self, number: int, shard: Shard) -> Future[ShardResult]:
        """Takes a shard in, waiting while too many bytes are ahead of the model.

        Returns:
          a future that is resolved once the shard's files are written.

        Raises:
          RuntimeError: the model's thread has broken off.
        """
        opened = _OpenShard(number, shard)
        with self._lock:
            if self._broken:
                raise _broken_off(self._broken)
            self._open.add(opened)
        for image in shard.images:
            taken = _UNKNOWN_SIZE if image.size is None else image.size
            self._budget.acquire(taken + self._pixel_bytes)
            with self._lock:
                if self._broken:
                    break  # the shard's future has been told
                self._in_flight += 1
            self._fetchers.submit(self._fetch, opened, image, taken)
        return opened.done

    def close(self) -> None:
        """Finishes what was submitted and ends all threads."""
        self._fetchers.shutdown(cancel_futures=self._broken is not None)
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

    def _model_loop(self) -> None:
        """The model's thread. It ends with `close` alone: nobody may wait for rows that never come."""
        try:
            self._caption_arrivals()
        except BaseException as error:
            with self._lock:
                self._broken = error
                waiting, self._open = self._open, set()
            for shard in waiting:
                shard.done.set_exception(_broken_off(error))
            while self._arrivals.get() is not None:
                self._budget.release(self._pixel_bytes)  # a submitter may be waiting for room

    def _caption_arrivals(self) -> None:
        """Collects a batch, and runs it when it is full or when nothing more is on its way."""
        batch: list[tuple[_OpenShard, DecodedImage]] = []
        idle_since = time.monotonic()
        while (arrival := self._arrivals.get()) is not None:
            shard, outcome = arrival
            shard.spent("wait", time.monotonic() - max(idle_since, shard.opened))
            self._budget.release(self._pixel_bytes)
            with self._lock:
                self._in_flight -= 1
                last = self._in_flight == 0
            if isinstance(outcome, Failure):
                self._finish(shard, outcome)
            else:
                batch.append((shard, outcome))
            if len(batch) >= self._batches.size or (batch and last):
                self._caption(batch)
                batch = []
            idle_since = time.monotonic()

    def _caption(self, batch: list[tuple[_OpenShard, DecodedImage]]) -> None:
        started = time.monotonic()
        outcomes = self._batches.caption([image for _, image in batch])
        share = (time.monotonic() - started) / len(batch)
        for (shard, _), outcome in zip(batch, outcomes, strict=True):
            shard.spent("caption", share)
            self._finish(shard, outcome)

    def _finish(self, shard: _OpenShard, outcome: CaptionedImage | Failure) -> None:
        self._progress.add(failed=isinstance(outcome, Failure))
        if shard.add(outcome):
            with self._lock:
                self._open.discard(shard)
            self._writer.submit(shard.commit, self._run, self._model_version, self._several)


def _broken_off(error: BaseException) -> RuntimeError:
    """A new exception for each that waits; an Exception, which Beam's workers report, whatever `error` is."""
    broken = RuntimeError(f"the model's thread broke off: {error!r}")
    broken.__cause__ = error
    return broken


def _timed(shard: _OpenShard, stage: str, image: ImageInput, work: Callable[[], T | Failure]) -> T | Failure:
    """Does `work` on the shard's time; what it should have caught and did not is a failure of this image too."""
    started = time.monotonic()
    try:
        return work()
    except BaseException as error:  # in a pool's thread nobody else would see it, and the shard would wait for ever
        return Failure.of(image.uri, stage, error, image.object_version)
    finally:
        shard.spent(stage, time.monotonic() - started)
