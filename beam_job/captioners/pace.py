"""Limits concurrent requests: fewer when the server says that it is overloaded, then slowly more again."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator


class Stopwatch:
    """Monotonic seconds without the waits for a turn: a picture's deadline counts its own requests only."""

    def __init__(self) -> None:
        self._waited = 0.0

    def now(self) -> float:
        """Seconds of this watch."""
        return time.monotonic() - self._waited

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Within this block the watch stands still."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._waited += time.monotonic() - started


class Pace:
    """Limits the number of concurrent requests; shared by threads.

    The number is halved when the server asks to slow down, and grows by one whenever so many requests have succeeded
    ("additive increase, multiplicative decrease", as in TCP).

    Args:
      most: concurrent requests if the server is not overloaded.
      longest_pause: seconds; a server that asks for a longer one is asked again after these.
    """

    def __init__(self, most: int, longest_pause: float) -> None:
        self._most = most
        self._longest_pause = longest_pause
        self._limit = float(most)
        self._under_way = 0
        self._resume_at = 0.0
        self._slowed_at = 0.0
        self._changed = threading.Condition()  # guards all of these

    @property
    def limit(self) -> int:
        """Requests that may be under way now."""
        return int(self._limit)

    @contextlib.contextmanager
    def turn(self, watch: Stopwatch) -> Iterator[None]:
        """Waits until another request may be sent; the block is that request."""
        with watch.paused(), self._changed:
            while True:
                pause = self._resume_at - time.monotonic()
                if pause <= 0 and self._under_way < self.limit:
                    break
                self._changed.wait(pause if pause > 0 else None)
            self._under_way += 1
        try:
            yield
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def slow_down(self, started: float, pause: float | None) -> None:
        """The server is overloaded.

        Args:
          started: when the request that was refused began, in monotonic seconds: of those that were under way together
            only the first one halves the number.
          pause: seconds for which no more requests are sent, if the server named them.
        """
        with self._changed:
            now = time.monotonic()
            if started >= self._slowed_at:
                self._limit = max(1.0, self._limit / 2)
                self._slowed_at = now
            self._resume_at = max(self._resume_at, now + min(pause or 0.0, self._longest_pause))

    def succeeded(self) -> None:
        """A request was answered."""
        with self._changed:
            self._limit = min(self._most, self._limit + 1 / self._limit)
            self._changed.notify_all()
