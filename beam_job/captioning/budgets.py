"""What bounds the engine: bytes in flight, and failures beyond which going on is in vain."""

from __future__ import annotations

import sys
import threading

from beam_job.records import Failure

EVIDENCE = 200


class ByteBudget:
    """Bounds the bytes in flight, whatever the number of images; one image larger than all of it passes alone.

    Who waits is woken once an eighth is free, for many images at a time: a thread that is woken for each is dear.
    """

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
            if self._taken <= self._limit - self._limit // 8:
                self._changed.notify_all()

    def lift(self) -> None:
        """Lets everybody through from now on."""
        with self._changed:
            self._limit = sys.maxsize
            self._changed.notify_all()


class FailureBudgetError(RuntimeError):
    """Too many images fail for the run to go on; the message says how many and why."""


class FailureBudget:
    """Counts what becomes of a process's images and breaks off where going on is in vain.

    With at least `EVIDENCE` failures seen, that is where
      - not one image could be fetched so far (a bucket that has gone, no permission), or captioned (a model that
        fails); images that cannot be decoded are no sign of that, or
      - the last `EVIDENCE` images all failed for reasons that may pass (a server that went down), or
      - the failures are more than `max_ratio` of all inputs, which no success can mend.
    It counts one process, and what this attempt at the run sees: a run that goes on after a stop starts afresh.

    Args:
      max_ratio: failures by inputs, as `JobConfig.max_failure_ratio`; 1 never breaks off.
      inputs: of the whole run.
    """

    def __init__(self, max_ratio: float, inputs: int) -> None:
        self._max_ratio = max_ratio
        self._inputs = inputs
        self._fetched = self._succeeded = self._failed = self._in_a_row = 0
        self._lock = threading.Lock()

    def fetched(self) -> None:
        """Counts an image that has been fetched; it may be decoded long after others have failed."""
        with self._lock:
            self._fetched += 1
            self._in_a_row = 0

    def add(self, failure: Failure | None) -> None:
        """Counts an image; None for one that waits for its caption.

        Raises:
          FailureBudgetError: it is time to stop.
        """
        with self._lock:
            self._succeeded += failure is None
            self._failed += failure is not None
            self._in_a_row = self._in_a_row + 1 if failure and failure.transient else 0
            why = self._why_stop(failure.stage) if failure else None
        if failure and why:
            raise FailureBudgetError(
                f"{why}, at last {failure.stage}: {failure.error_message}; "
                f"see to that, or go on regardless with --max_failure_ratio=1"
            )

    def revoke(self, failure: Failure) -> None:
        """Counts an image that was to get its caption and did not; raises as `add`."""
        self._succeeded -= 1
        self.add(failure)

    def _why_stop(self, stage: str) -> str | None:
        if self._max_ratio == 1 or self._failed < EVIDENCE:
            return None
        if not self._succeeded and (stage == "caption" or (stage != "decode" and not self._fetched)):
            return f"all of the first {self._failed:,} images failed"
        if self._in_a_row >= EVIDENCE:
            return f"{self._in_a_row:,} images in a row failed"
        if self._failed > self._max_ratio * self._inputs:
            return (
                f"{self._failed:,} of {self._inputs:,} images failed, more than --max_failure_ratio={self._max_ratio}"
            )
        return None
