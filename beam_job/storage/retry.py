"""Retries with exponential backoff and full jitter, within one total deadline."""

from __future__ import annotations

import random as _random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from beam_job.storage.base import StorageError

T = TypeVar("T")
Clock = Callable[[], float]

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 8.0


@dataclass(frozen=True)
class Deadline:
    """The time by which something must have ended.

    Attributes:
      at: that time, in seconds of the clock.
      clock: monotonic seconds; tests inject their own.
    """

    at: float
    clock: Clock = time.monotonic

    @classmethod
    def after(cls, seconds: float, clock: Clock = time.monotonic) -> Deadline:
        """The deadline `seconds` from now."""
        return cls(clock() + seconds, clock)

    def left(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - self.clock())

    @property
    def expired(self) -> bool:
        """Whether no time is left."""
        return self.left() <= 0.0


class Retrying(Protocol):
    """The type of `retrying`, whose clock tests replace."""

    def __call__(self, attempt: Callable[[Deadline], T], timeout: float) -> T:
        """The result of `attempt`, within `timeout` seconds."""


def retrying(
    attempt: Callable[[Deadline], T],
    timeout: float,
    *,
    clock: Clock = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    random: Callable[[], float] = _random.random,
) -> T:
    """The result of `attempt`, which is repeated after transient errors.

    The n-th wait is uniform between 0 and 0.5 s * 2**(n-1), at most 8 s ("full jitter", so that threads that failed
    together do not retry together), and not shorter than the error's `retry_after`. A wait that would last beyond the
    deadline is not started: no time would be left for another attempt.

    Args:
      attempt: is given the deadline, which it must keep itself; called at least once.
      timeout: seconds for all attempts and waits together.
      clock: seconds for the deadline.
      sleep: waits that many seconds.
      random: a number in [0, 1).

    Raises:
      StorageError: the first one that is not transient, or the last one, with the number of attempts in its message.
        If the deadline cut the last attempt short, the error of the attempt before, which says more.
    """
    deadline = Deadline.after(timeout, clock)
    attempts = 0
    earlier: StorageError | None = None
    while True:
        attempts += 1
        try:
            return attempt(deadline)
        except StorageError as error:
            wait = max(random() * _backoff(attempts), error.retry_after or 0.0)
            if not error.transient:
                raise _counted(error, attempts) from error.__cause__
            if wait >= deadline.left():
                last = earlier if earlier and deadline.expired else error
                raise _counted(last, attempts) from last.__cause__
            earlier = error
        sleep(wait)


def _backoff(attempts: int) -> float:
    return min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(attempts - 1, 10))


def _counted(error: StorageError, attempts: int) -> StorageError:
    if error.transient or attempts > 1:
        error.args = (f"{error} ({attempts} attempt{'s' if attempts > 1 else ''})",)
    return error
