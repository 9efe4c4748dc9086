"""Trying again, and when to stop: exponential backoff with full jitter inside one total deadline."""

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
    """A moment after which nothing may go on.

    Attributes:
      at: the moment, in the clock's seconds.
      clock: seconds that never run backwards; injected by tests.
    """

    at: float
    clock: Clock = time.monotonic

    @classmethod
    def after(cls, seconds: float, clock: Clock = time.monotonic) -> Deadline:
        """The moment `seconds` from now."""
        return cls(clock() + seconds, clock)

    def left(self) -> float:
        """Seconds until then, never negative."""
        return max(0.0, self.at - self.clock())

    @property
    def expired(self) -> bool:
        """Whether the moment has come."""
        return self.left() <= 0.0


class Retrying(Protocol):
    """`retrying`, with whatever clock; what a storage is made with."""

    def __call__(self, attempt: Callable[[Deadline], T], timeout: float) -> T:
        """What `attempt` returns within `timeout` seconds."""


def retrying(
    attempt: Callable[[Deadline], T],
    timeout: float,
    *,
    clock: Clock = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    random: Callable[[], float] = _random.random,
) -> T:
    """What `attempt` returns, tried again after transient errors.

    The n-th wait is drawn evenly between 0 and 0.5 s * 2**(n-1), 8 s at most ("full jitter", so that threads which
    failed together do not come back together), and is no shorter than the error's `retry_after`. A wait that would
    outlast the deadline is not begun: what is left would not suffice for an attempt either.

    Args:
      attempt: gets the deadline that it has to keep by itself; called once at least.
      timeout: seconds for all attempts and waits together.
      clock: for the deadline, in seconds.
      sleep: waits that many seconds.
      random: a number in [0, 1).

    Raises:
      StorageError: the first one that is not transient, or the last one; its message says how often was tried. An
        attempt that the deadline cut short says nothing of the reason: then it is the error of the one before.
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
