"""Backoff, jitter and the total deadline, on a clock that only sleeping moves."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from beam_job.storage import StorageError
from beam_job.storage.retry import Deadline, retrying


class Time:
    """A clock and what was slept on it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def failing(times: int, error: Callable[[], StorageError]) -> Callable[[Deadline], str]:
    """An attempt that fails that often before it succeeds."""
    left = [times]

    def attempt(deadline: Deadline) -> str:
        if left[0] == 0:
            return "done"
        left[0] -= 1
        raise error()

    return attempt


def transient() -> StorageError:
    return StorageError("gs://b/x: 503", "ServiceUnavailable", transient=True)


@pytest.mark.parametrize(
    ("drawn", "waits"),
    [(1.0, [0.5, 1.0, 2.0, 4.0, 8.0, 8.0]), (0.25, [0.125, 0.25, 0.5, 1.0, 2.0, 2.0])],
    ids=["longest", "a-quarter"],
)
def test_waits_double_up_to_eight_seconds_and_are_drawn(drawn: float, waits: list[float]) -> None:
    time = Time()
    attempt = failing(6, transient)
    assert retrying(attempt, 60.0, clock=time.clock, sleep=time.sleep, random=lambda: drawn) == "done"
    assert time.slept == waits


def test_the_last_error_counts_the_attempts_and_nobody_sleeps_beyond_the_deadline() -> None:
    time = Time()
    with pytest.raises(StorageError) as caught:
        retrying(failing(99, transient), 4.0, clock=time.clock, sleep=time.sleep, random=lambda: 1.0)
    assert str(caught.value) == "gs://b/x: 503 (4 attempts)"  # 0.5 + 1 + 2 s; 4 s more would be too late
    assert (caught.value.transient, caught.value.cause) == (True, "ServiceUnavailable")
    assert time.slept == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    ("asked", "slept", "result"),
    [(3.0, [3.0], "done"), (0.1, [0.5], "done"), (30.0, [], None)],
    ids=["longer-than-backoff", "shorter-than-backoff", "longer-than-the-deadline"],
)
def test_retry_after(asked: float, slept: list[float], result: str | None) -> None:
    time = Time()
    attempt = failing(1, lambda: StorageError("429", transient=True, retry_after=asked))
    if result is None:
        with pytest.raises(StorageError, match=r"429 \(1 attempt\)"):
            retrying(attempt, 10.0, clock=time.clock, sleep=time.sleep, random=lambda: 1.0)
    else:
        assert retrying(attempt, 10.0, clock=time.clock, sleep=time.sleep, random=lambda: 1.0) == result
    assert time.slept == slept


def test_permanent_errors_are_not_tried_again() -> None:
    time = Time()
    with pytest.raises(StorageError, match=r"^404$"):
        retrying(failing(1, lambda: StorageError("404")), 10.0, clock=time.clock, sleep=time.sleep)
    assert time.slept == []


def test_the_deadline_is_that_of_all_attempts() -> None:
    time = Time()
    seen: list[float] = []

    def attempt(deadline: Deadline) -> None:
        seen.append(deadline.left())
        time.now += 1.0
        if len(seen) < 3:
            raise transient()

    retrying(attempt, 10.0, clock=time.clock, sleep=time.sleep, random=lambda: 1.0)
    assert seen == [10.0, 8.5, 6.5]


def test_an_attempt_cut_short_does_not_hide_the_reason() -> None:
    time = Time()
    errors = [transient(), StorageError("gs://b/x: time is over", "TimeoutError", transient=True)]

    def attempt(deadline: Deadline) -> None:
        time.now += 6.0
        raise errors.pop(0)

    with pytest.raises(StorageError, match=r"503 \(2 attempts\)"):
        retrying(attempt, 10.0, clock=time.clock, sleep=time.sleep, random=lambda: 1.0)


def test_deadline() -> None:
    time = Time()
    deadline = Deadline.after(2.0, time.clock)
    assert (deadline.left(), deadline.expired) == (2.0, False)
    time.now += 2.5
    assert (deadline.left(), deadline.expired) == (0.0, True)
