"""When to stop a run because too many of its images fail."""

from __future__ import annotations

from beam_job.records import RUN_ENDED, Failure

EVIDENCE = 200
# A place that says that a file is not there is up; whether it is the right place, `input_check` asks shard by shard.
_MISSING = ("FileNotFoundError", "NotFound", "Gone", "MemberNotFound", "gaierror", "HostBusy")


class FailureBudgetError(RuntimeError):
    """Too many images fail for the run to go on; the message says how many and why."""


class FailureBudget:
    """Counts the outcomes of a process's images, and stops the run where going on is useless.

    Once at least `EVIDENCE` images have failed, it stops the run if
      - not one image could be fetched so far (a deleted bucket, no permission), or captioned (a broken model); images
        that cannot be decoded are no sign of that, or
      - the last `EVIDENCE` images all failed for temporary reasons (a server that went down), or
      - more than `max_ratio` of all inputs have failed, which no later success can change.
    Each rule stops a run that the others let pass: the first one costs nothing where everything is wrong, the second
    one catches an outage in the middle of a large run, the third one is what --max_failure_ratio says. Counted are the
    images of one process, in this attempt at the run: a run that is resumed starts from zero.

    Args:
      max_ratio: failures by inputs, see `JobConfig.max_failure_ratio`; 1 never stops.
      inputs: images of the whole run.
    """

    def __init__(self, max_ratio: float, inputs: int) -> None:
        self._max_ratio = max_ratio
        self._inputs = inputs
        self._fetched = self._succeeded = self._failed = self._in_a_row = 0

    def count_fetched(self) -> None:
        """Counts an image that was fetched; it may be decoded long after others have failed."""
        self._fetched += 1
        self._in_a_row = 0

    def add(self, failure: Failure | None) -> None:
        """Counts an image; None for one that was loaded and waits for its caption, and none that is left on purpose.

        Raises:
          FailureBudgetError: it is time to stop.
        """
        if failure is not None and failure.error_type == RUN_ENDED:
            return
        self._succeeded += failure is None
        self._failed += failure is not None
        is_temporary = failure is not None and failure.transient and failure.error_type not in _MISSING
        self._in_a_row = self._in_a_row + 1 if is_temporary else 0
        if failure and (reason := self._reason_to_stop(failure.stage)):
            raise FailureBudgetError(
                f"{reason}, the last one at {failure.stage}: {failure.error_message}; "
                f"fix that, or ignore failures with --max_failure_ratio=1"
            )

    def revoke(self, failure: Failure) -> None:
        """Counts the failure of an image that was counted as waiting for its caption; raises as `add`."""
        self._succeeded -= 1
        self.add(failure)

    def take_back(self, failed: int) -> None:
        """Uncounts images that failed and are loaded again."""
        self._failed -= failed

    def _reason_to_stop(self, stage: str) -> str | None:
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
