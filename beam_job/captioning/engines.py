"""The engines of this process, its only process-wide state: one per run, shared by all threads.

Runners make a DoFn for each of their threads; all of them use one engine, and so one model. The same holds for each
configuration of `CaptionImages`.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

from beam_job.captioning.image_engine import ImageEngine

E = TypeVar("E", bound="ImageEngine[Any]")


class Engines:
    """Engines by key; an engine that has failed is not handed out again."""

    def __init__(self) -> None:
        self._current: dict[Hashable, ImageEngine[Any]] = {}
        self._users: Counter[ImageEngine[Any]] = Counter()
        self._kept: ImageEngine[Any] | None = None
        self._lock = threading.Lock()  # guards these three, and is held while a model is loaded

    def acquire(self, key: Hashable, open_engine: Callable[[E | None], E], keep: bool = False) -> E:
        """The engine of `key`; each call needs a `release`.

        Args:
          key: what the engine depends on.
          open_engine: called if there is none; it gets the failed engine that the new one replaces, or None.
          keep: whether the engine stays open without users, until one of another key is kept instead.
        """
        if keep:
            with self._lock:
                stale = self._kept if self._kept is not self._current.get(key) else None
            if stale is not None:  # first, since a device may not hold a second model
                self.close_kept()
        engine = self._acquire(key, open_engine)
        if keep:
            with self._lock:
                stale, self._kept = self._kept, engine
                self._users[engine] += 1
            if stale is not None:  # this same engine, or a failed one
                self.release(stale)
        return engine

    def close_kept(self) -> None:
        """Closes the engine that is kept open, once nobody uses it."""
        with self._lock:
            kept, self._kept = self._kept, None
        if kept is not None:
            self.release(kept)

    def _acquire(self, key: Hashable, open_engine: Callable[[E | None], E]) -> E:
        with self._lock:
            engine = cast("E | None", self._current.get(key))  # an engine of one kind for each key
            if engine is None or engine.has_failed:
                engine = self._current[key] = open_engine(engine)
            self._users[engine] += 1
            return engine

    def release(self, engine: ImageEngine[Any]) -> None:
        """Closes the engine if nobody else uses it."""
        with self._lock:
            self._users[engine] -= 1
            if self._users[engine]:
                return
            del self._users[engine]
            self._current = {key: other for key, other in self._current.items() if other is not engine}
        engine.close()

    def stop(self, timeout: float) -> None:
        """Ends all work; shards that have all their rows are written. Each engine gets `timeout` seconds."""
        for engine in list(self._users):  # without the lock, which is held while a model is loaded
            engine.fail(RuntimeError("the job was stopped"))
            engine.settle(timeout)


ENGINES = Engines()


def close_kept_engine() -> None:
    """Closes the engine that this process keeps open: a function that travels to workers by its name."""
    ENGINES.close_kept()
