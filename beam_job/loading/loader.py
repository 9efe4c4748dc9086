"""What all loaders share: images go in, pixels or failures come out, and in between the images are their own."""

from __future__ import annotations

import abc
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from beam_job.loading.byte_budget import ByteBudget
from beam_job.loading.load_config import LoadConfig
from beam_job.records import DecodedImage, Failure, ImageInput


@dataclass(frozen=True)
class LoadEvent:
    """What happened to an image: its file has arrived (`outcome` is None), or loading has ended.

    Attributes:
      key: what `put` was given with the image.
      outcome: the pixels, or why there are none.
      file_bytes: size of its file; None if it was not fetched.
      fetch_seconds: spent on fetching it.
      decode_seconds: spent on decoding it.
    """

    key: Any
    outcome: DecodedImage | Failure | None
    file_bytes: int | None
    fetch_seconds: float = 0.0
    decode_seconds: float = 0.0


class Loader(abc.ABC):
    """Loads images; `put`, `close` and `stop` may be called from any thread, `get` from one.

    Each image gives one event when its file has arrived, unless that fails, and one with its outcome.

    Args:
      config: its `in_flight_bytes` bound what is held between a fetch's start and `get`.
    """

    def __init__(self, config: LoadConfig) -> None:
        self._config = config
        self._budget = ByteBudget(config.in_flight_bytes)
        self._results: queue.SimpleQueue[list[LoadEvent]] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._stopped = threading.Event()
        self._pending = 0
        self._lock = threading.Lock()  # guards _pending

    def put(self, key: Any, images: Sequence[ImageInput]) -> None:
        """Takes images in, without waiting; their events carry `key`."""
        with self._lock:
            self._pending += len(images)
        for image in images:
            self._queue(key, image)

    def put_failures(self, key: Any, failures: Sequence[Failure]) -> None:
        """Takes images in that are not to be loaded; their outcomes, with `key`, are these failures."""
        with self._lock:
            self._pending += len(failures)
        self._budget.release(-len(failures) * self._config.pixel_bytes)  # reserved, as `get` gives them back
        self._results.put([LoadEvent(key, failure, None) for failure in failures])

    def get(self, timeout: float | None = None) -> list[LoadEvent]:
        """The next events, waiting for them; none once the loader was stopped, or closed and emptied.

        Args:
          timeout: seconds to wait; None for ever.

        Raises:
          queue.Empty: nothing has happened for so long.
          CredentialsError: nobody is logged in, or no longer.
          LoadProcessError: no process can be started for loading.
        """
        events = self._results.get(timeout=timeout)
        if self._error:
            raise self._error
        if self._stopped.is_set():
            return []
        done = sum(event.outcome is not None for event in events)
        if done:
            self._budget.release(done * self._config.pixel_bytes)
            with self._lock:
                self._pending -= done
        return events

    @property
    def pending(self) -> int:
        """Images that were put and whose outcomes `get` has not returned."""
        with self._lock:
            return self._pending

    def close(self) -> None:
        """Waits until all images are loaded, and ends all threads and processes; something has to `get` meanwhile."""
        self._finish()
        self._results.put([])

    def stop(self) -> None:
        """Drops all images; those being fetched or decoded are left to themselves."""
        self._stopped.set()
        self._budget.lift()
        self._results.put([])

    def _fail(self, error: BaseException) -> None:
        """Makes `get` raise `error`."""
        self._error = self._error or error
        self._results.put([])

    @abc.abstractmethod
    def _queue(self, key: Any, image: ImageInput) -> None: ...

    @abc.abstractmethod
    def _finish(self) -> None: ...

    def _start(self, name: str, count: int, work: Callable[[], None]) -> list[threading.Thread]:
        """Starts threads that `work`; not an executor's, which the process waits for, as a fetch may hang."""
        threads = [threading.Thread(target=work, name=f"{name}-{number}", daemon=True) for number in range(count)]
        for thread in threads:
            thread.start()
        return threads

    def _end(self, threads: list[threading.Thread], tasks: queue.SimpleQueue[Any]) -> None:
        """Has threads end after all `tasks`; those of a stopped loader are left to themselves."""
        for _ in threads:
            tasks.put(None)
        self._join(threads)

    def _join(self, threads: list[threading.Thread]) -> None:
        for thread in threads:
            while thread.is_alive() and not self._stopped.is_set():
                thread.join(0.1)
