"""Fills batches image by image and runs them in threads."""

from __future__ import annotations

import collections
import dataclasses
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from beam_job.captioning.batches import BatchCaptioner
from beam_job.captioning.captioners import AnyCaptioner, takes_pictures
from beam_job.config import JobConfig
from beam_job.output.stage_clock import StageClock
from beam_job.records import CaptionedImage, DecodedImage, Failure

_REPORT_SECONDS = 300.0  # after which a batch that has not ended is reported
_SETTLE_SECONDS = 30.0  # for batches under way when the engine has failed


class Owner(Protocol):
    """What an image belongs to, such as its shard."""

    batch_fill: list[int]

    def columns_of(self, uri: str) -> Mapping[str, Any]:
        """The carried columns of an image."""


OwnerT = TypeVar("OwnerT", bound=Owner)


class BatchTimeoutError(RuntimeError):
    """A batch took longer than --batch_timeout."""


@dataclass(frozen=True)
class FinishedBatch(Generic[OwnerT]):
    """A batch that is done.

    Attributes:
      rows: each image with its owner and its outcome.
      seconds: that the captioner took.
    """

    rows: list[tuple[OwnerT, DecodedImage, CaptionedImage | Failure]]
    seconds: float


class _Batch(Generic[OwnerT]):
    """A batch that runs in a thread of its own; not an executor's, which the process waits for: a device may hang."""

    def __init__(self, images: list[tuple[OwnerT, DecodedImage]], captioner: BatchCaptioner, clock: StageClock) -> None:
        self.images = images
        self.started = time.monotonic()
        self.done: Future[FinishedBatch[OwnerT]] = Future()
        self._captioner = captioner
        self._clock = clock
        threading.Thread(target=self._run, name="batch", daemon=True).start()

    def _run(self) -> None:
        try:
            self.done.set_result(self._caption())
        except BaseException as error:
            self.done.set_exception(error)

    def _caption(self) -> FinishedBatch[OwnerT]:
        self._clock.transition(to="model")
        try:
            outcomes = self._captioner.caption([image for _, image in self.images])
        finally:
            self._clock.transition(from_="model")
        rows = [(*given, outcome) for given, outcome in zip(self.images, outcomes, strict=True)]
        return FinishedBatch(rows, time.monotonic() - self.started)


class BatchRunner(Generic[OwnerT]):
    """Runs batches; only the model's thread calls it.

    Args:
      captioner: what runs them.
      batch_size: images in a batch, to begin with.
      config: the job's.
      log: logs a line.
      clock: counts the time in which a batch runs.
    """

    def __init__(
        self,
        captioner: AnyCaptioner,
        batch_size: int,
        config: JobConfig,
        log: Callable[[str], None],
        clock: StageClock,
    ) -> None:
        self._runs_on = getattr(captioner, "engine", "custom"), getattr(captioner, "precision", "unknown")
        self._captioner = BatchCaptioner(captioner, batch_size, log, config.decoding.num_captions, config.prompts)
        self._at_once: int = getattr(captioner, "batches_at_once", 1)
        self._takes_pictures = takes_pictures(captioner)
        # Pictures may be large: a batch of them is full when it holds its share of the bytes, too.
        self._batch_bytes = config.in_flight_bytes // (self._at_once + 1) if self._takes_pictures else sys.maxsize
        self._next_bytes = 0
        self._running: collections.deque[_Batch[OwnerT]] = collections.deque()
        self._next: list[tuple[OwnerT, DecodedImage]] = []
        self._timeout = config.batch_timeout
        self._log = log
        self._clock = clock

    @property
    def ran_with(self) -> tuple[str, str, int]:
        """What runs the captioner, its precision, and the present size of its batches."""
        return *self._runs_on, self._captioner.size

    def add(self, owner: OwnerT, image: DecodedImage) -> list[FinishedBatch[OwnerT]]:
        """Adds an image to the next batch, and runs that if it is full; returns batches that had to end first.

        Raises:
          BatchTimeoutError: one of them did not end in time.
          BaseException: whatever the captioner raised that is not an Exception.
        """
        if self._takes_pictures:
            image = dataclasses.replace(image, columns=owner.columns_of(image.input.uri))
        self._next.append((owner, image))
        self._next_bytes += image.pixels.nbytes
        is_full = len(self._next) >= self._captioner.size or self._next_bytes >= self._batch_bytes
        return self._run_next() if is_full else []

    def flush(self) -> list[FinishedBatch[OwnerT]]:
        """Runs the next batch as it is, and returns all batches once they have ended. Raises as `add`."""
        finished = self._run_next() if self._next else []
        return finished + self._take(left=0)

    def take_finished(self) -> list[FinishedBatch[OwnerT]]:
        """The batches that have ended by now. Raises as `add`."""
        return self._take(left=self._at_once)

    def wait(self) -> None:
        """After a failure: waits a while for the batches that still run, whose outcomes nobody needs."""
        wait([batch.done for batch in self._running], _SETTLE_SECONDS)

    @property
    def is_running(self) -> bool:
        """Whether the captioner still works on a batch."""
        return not all(batch.done.done() for batch in self._running)

    def _run_next(self) -> list[FinishedBatch[OwnerT]]:
        """Starts the next batch when no more than the allowed number run; returns those that had to end first."""
        finished = self._take(left=self._at_once - 1)
        images, self._next, self._next_bytes = self._next, [], 0
        first, _ = images[0]
        first.batch_fill.append(100 * len(images) // self._captioner.size)
        self._running.append(_Batch(images, self._captioner, self._clock))
        return finished

    def _take(self, left: int) -> list[FinishedBatch[OwnerT]]:
        """The batches that have ended, waiting until no more than `left` run."""
        finished = []
        while self._running:
            ended = next((batch for batch in self._running if batch.done.done()), None)
            if ended is None and len(self._running) <= left:
                break
            if ended is None:
                self._wait_for_one()
                continue
            self._running.remove(ended)
            finished.append(ended.done.result())
        return finished

    def _wait_for_one(self) -> None:
        """Waits until one of the running batches has ended; raises BatchTimeoutError for the oldest."""
        oldest = self._running[0]
        report_after = _REPORT_SECONDS
        while True:
            limit = min(report_after, self._timeout)
            left = max(0.0, oldest.started + limit - time.monotonic())
            if wait([batch.done for batch in self._running], left, FIRST_COMPLETED).done:
                return
            if limit == self._timeout:
                raise BatchTimeoutError(
                    f"a batch of {len(oldest.images)} images did not finish within --batch_timeout={self._timeout:g} "
                    f"seconds; if the captioner is only slow, use a longer timeout or a smaller --batch_size"
                )
            self._log(
                f"no batch has finished for {limit / 60:.0f} minutes; the captioner may hang "
                f"(the run ends after --batch_timeout={self._timeout:g} seconds)"
            )
            report_after *= 2
