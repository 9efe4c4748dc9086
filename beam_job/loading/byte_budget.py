"""Bounds the memory of images that are fetched, decoded or waiting for the model."""

from __future__ import annotations

import sys
import threading


class LargerThanReservedError(Exception):
    """A file has more bytes than were reserved for it, and no more are free now.

    Attributes:
      size: bytes that it has, at least.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class ByteBudget:
    """A number of bytes that threads reserve and give back; an image larger than all of it passes alone.

    Threads are served in order, so that a large image does not wait forever behind small ones.

    Args:
      limit: bytes reserved at the same time.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._reserved = 0
        self._turn = threading.Lock()
        self._changed = threading.Condition()

    def acquire(self, size: int) -> None:
        """Reserves `size` bytes, waiting until they fit."""
        with self._turn, self._changed:
            self._changed.wait_for(lambda: self._fits(size))
            self._reserved += size

    def try_acquire(self, size: int) -> bool:
        """Reserves `size` bytes if they fit now; whether they did."""
        with self._changed:
            if fits := self._fits(size):
                self._reserved += size
        return fits

    def reserve(self, size: int) -> Reservation:
        """Reserves `size` bytes, waiting until they fit, for something whose size may change."""
        self.acquire(size)
        return Reservation(self, size)

    def release(self, size: int) -> None:
        """Gives `size` bytes back."""
        with self._changed:
            self._reserved -= size
            # The waiting thread is woken once an eighth is free, not for each image: waking a thread is expensive.
            if self._reserved <= self._limit - self._limit // 8:
                self._changed.notify_all()

    def lift(self) -> None:
        """Removes the limit, so that nobody waits from now on."""
        with self._changed:
            self._limit = sys.maxsize
            self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return self._reserved == 0 or self._reserved + size <= self._limit


class Reservation:
    """Bytes reserved for one image; one thread at a time uses it.

    Attributes:
      size: bytes reserved.
    """

    def __init__(self, budget: ByteBudget, size: int) -> None:
        self._budget = budget
        self.size = size

    def grow_to(self, size: int) -> None:
        """Reserves `size` bytes in total, without waiting: two files that waited for each other would do so for ever.

        Raises:
          LargerThanReservedError: they do not fit.
        """
        if size > self.size:
            if not self._budget.try_acquire(size - self.size):
                raise LargerThanReservedError(size)
            self.size = size

    def resize(self, size: int) -> None:
        """Reserves `size` bytes in total, whether they fit or not; 0 gives all back."""
        self._budget.release(self.size - size)
        self.size = size
