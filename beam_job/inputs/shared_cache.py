"""A cache for values that are slow to compute: one thread computes each value, and the others wait for it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class SharedCache(Generic[K, V]):
    """The values that were used last.

    Args:
      most: the sum of the weights that is kept, apart from the value used last.
      make: makes the value of a key; an error reaches all threads that wait, and is not kept.
      weigh: the weight of a value.
    """

    def __init__(self, most: int, make: Callable[[K], V], weigh: Callable[[V], int] = lambda _: 1) -> None:
        self._most = most
        self._make = make
        self._weigh = weigh
        self._lock = threading.Lock()  # guards _values and _weights
        self._values: OrderedDict[K, Future[V]] = OrderedDict()
        self._weights: dict[K, int] = {}

    def get(self, key: K) -> V:
        """The value of `key`."""
        with self._lock:
            future = self._values.get(key)
            is_maker = future is None
            if future is None:
                future = self._values[key] = Future()
            self._values.move_to_end(key)
        if is_maker:
            self._fill(key, future)
        return future.result()

    def _fill(self, key: K, future: Future[V]) -> None:
        try:
            value = self._make(key)
        except BaseException as error:
            with self._lock:
                del self._values[key]
            future.set_exception(error)
            return
        future.set_result(value)
        with self._lock:
            self._weights[key] = self._weigh(value)
            for other in [other for other in self._values if other in self._weights and other != key]:
                if sum(self._weights.values()) <= self._most:
                    return
                del self._values[other], self._weights[other]
