"""A loader takes images in and gives pixels or failures out; between the two, the images are its own.

put ──> [to fetch] ──> fetching ──> [to decode] ──> decoding ──> [results] ──> get
        a queue        threads      a queue         threads      a queue
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from beam_job.config import JobConfig
from beam_job.inputs.filters import Filters
from beam_job.loading.byte_budget import ByteBudget, LargerThanReservedError, Reservation
from beam_job.loading.decode_pool import DecodePool
from beam_job.loading.host_queue import HostQueue
from beam_job.loading.images import FetchedImage, decode, fetch
from beam_job.records import DecodedImage, Failure, ImageInput
from beam_job.storage import CONTENT, LATER, Access, Allowed, CredentialsError

T = TypeVar("T")
_UNKNOWN_SIZE = 2**20  # bytes reserved for a file of unknown size, until its size is known
_GROWTH = 8  # times the bytes reserved before, for a file that had too few


@dataclass(frozen=True)
class LoadConfig:
    """What loading depends on.

    Attributes:
      input_size: side of the captioner's images, in pixels; with `in_proportion`, the longest side.
      fetch_threads: images fetched at the same time.
      decode_threads: images decoded at the same time.
      max_pixels: see `model.load_image`.
      in_flight_bytes: of files and pixels that a loader holds.
      fetch_timeout: seconds for an image, retries included.
      allowed: what may be read.
      filters: their sizes are checked when an image of a list is fetched.
      in_proportion: whether images keep their aspect ratio.
      access: how storages are asked.
      image_columns: see `JobConfig`, and the checksum that `Copies` needs.
    """

    input_size: int
    fetch_threads: int
    decode_threads: int
    max_pixels: int
    in_flight_bytes: int
    fetch_timeout: float
    allowed: Allowed
    filters: Filters
    in_proportion: bool = False
    access: Access = dataclasses.field(default_factory=Access)
    image_columns: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: JobConfig, input_size: int, on_gpu: bool, in_proportion: bool = False) -> LoadConfig:
        """The job's settings, completed for this machine, which may have other cores than the one that launched it."""
        fetch, decode = default_threads(os.cpu_count() or 1, on_gpu)
        return cls(
            input_size=input_size,
            fetch_threads=config.fetch_threads or fetch,
            decode_threads=config.decode_threads or decode,
            max_pixels=config.max_pixels,
            in_flight_bytes=config.in_flight_bytes,
            fetch_timeout=config.fetch_timeout,
            allowed=config.allowed,
            filters=config.filters,
            in_proportion=in_proportion,
            access=config.access,
            image_columns=_image_columns(config),
        )

    @property
    def pixel_bytes(self) -> int:
        """Bytes of an image's pixels; of one in proportion, the most that they can be."""
        return 3 * self.input_size**2


def _image_columns(config: JobConfig) -> tuple[str, ...]:
    needed = ("sha256",) if config.dedupe else ()
    return tuple(dict.fromkeys((*config.image_columns, *needed)))


def default_threads(cores: int, on_gpu: bool) -> tuple[int, int]:
    """How many images are fetched, and decoded, at the same time unless the user says so.

    32 processes beside a GPU load 11,000 small images a second or 2,900 large ones, by `runners.estimate`; the model's
    process took 3,300 of them.
    """
    if not on_gpu:
        return 32, min(8, cores)
    processes = min(32, cores)
    return 8 * processes, processes


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


class ThreadLoader(Loader):
    """A loader of threads in this process: some fetch, others decode."""

    def __init__(self, config: LoadConfig) -> None:
        super().__init__(config)
        self._pool = DecodePool(
            config.decode_threads, config.input_size, config.max_pixels, in_proportion=config.in_proportion
        )
        self._to_fetch: HostQueue[tuple[Any, ImageInput]] = HostQueue(config.fetch_threads, config.fetch_timeout)
        self._to_decode: queue.SimpleQueue[tuple[Any, FetchedImage, float] | None] = queue.SimpleQueue()
        self._fetchers = self._start("fetch", config.fetch_threads, self._fetch_queued)
        self._decoders = self._start("decode", config.decode_threads, self._decode_queued)

    def _queue(self, key: Any, image: ImageInput) -> None:
        self._to_fetch.put(image.uri, (key, image))

    def _finish(self) -> None:
        self._to_fetch.close()
        self._join(self._fetchers)
        self._end(self._decoders, self._to_decode)
        self._pool.close()

    def stop(self) -> None:
        super().stop()
        self._to_fetch.close()

    def _fetch_queued(self) -> None:
        while (given := self._to_fetch.get()) is not None and not self._stopped.is_set():
            host, task = given
            try:
                self._fetch(*task)
            except BaseException as error:  # nobody else would see it, and the image's shard would wait for ever
                self._fail(error)
            finally:
                self._to_fetch.done(host)

    def _fetch(self, key: Any, image: ImageInput) -> None:
        fetched, seconds = self._fetch_within_budget(image)
        if isinstance(fetched, Failure):
            self._results.put([LoadEvent(key, fetched, None, seconds)])
        else:
            self._results.put([LoadEvent(key, None, len(fetched.data))])
            self._to_decode.put((key, fetched, seconds))

    def _fetch_within_budget(self, image: ImageInput) -> tuple[FetchedImage | Failure, float]:
        """Fetches a file whose bytes are reserved before they are held; returns the seconds that it took, too.

        The bytes of the file, if it was fetched, and of its pixels stay reserved. A file that turns out larger than
        was reserved, while no more bytes are free, is dropped and fetched again with more room; in the end alone.
        """
        size, seconds = _UNKNOWN_SIZE if image.size is None else image.size, 0.0
        while True:
            size = min(size, self._config.in_flight_bytes)
            reservation = self._budget.reserve(size + self._config.pixel_bytes)
            started = time.monotonic()
            try:
                fetched = self._fetch_once(image, reservation, self._config.fetch_timeout - seconds)
            except LargerThanReservedError as larger:
                size, fetched = max(larger.size, _GROWTH * size), None
            seconds += time.monotonic() - started
            if fetched is not None:
                held = 0 if isinstance(fetched, Failure) else len(fetched.data)
                reservation.resize(held + self._config.pixel_bytes)
                return fetched, seconds
            reservation.resize(0)  # only now, when the exception is gone, and with it what had been read

    def _fetch_once(self, image: ImageInput, reservation: Reservation, timeout: float) -> FetchedImage | Failure:
        config = self._config

        def reserve(size: int) -> None:
            reservation.grow_to(size + config.pixel_bytes)

        has_all = reservation.size >= config.in_flight_bytes  # and so it is alone, whatever its size
        on_size = None if has_all else reserve
        work = functools.partial(fetch, image, max(1.0, timeout), config.allowed, config.filters, on_size)
        return _guarded("fetch", image, work)

    def _decode_queued(self) -> None:
        while self._decode_next():
            pass

    def _decode_next(self) -> bool:
        """Decodes an image; False when there are no more. No variable holds its file until the next one is here."""
        task = self._to_decode.get()
        if task is None or self._stopped.is_set():
            return False
        try:
            event = self._decoded(*task)
        except BaseException as error:
            self._fail(error)
            return True
        del task
        self._budget.release(event.file_bytes or 0)
        self._results.put([event])
        return True

    def _decoded(self, key: Any, fetched: FetchedImage, fetch_seconds: float) -> LoadEvent:
        started = time.monotonic()
        outcome = _guarded(
            "decode", fetched.input, functools.partial(decode, fetched, self._pool, self._config.image_columns)
        )
        return LoadEvent(key, outcome, len(fetched.data), fetch_seconds, time.monotonic() - started)


def _guarded(stage: str, image: ImageInput, work: Callable[[], T | Failure]) -> T | Failure:
    """`work`; an error that it should have handled and did not is a failure of this image too."""
    try:
        return work()
    except (CredentialsError, LargerThanReservedError):
        raise
    except BaseException as error:
        was_read = stage == "decode" and not isinstance(error, (MemoryError, OSError))
        return Failure.of(image.uri, stage, error, image.object_version, CONTENT if was_read else LATER)
