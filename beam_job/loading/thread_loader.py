"""A loader of threads in this process.

put ──> [to fetch] ──> fetching ──> [to decode] ──> decoding ──> [results] ──> get
        a queue        threads      a queue         threads      a queue
"""

from __future__ import annotations

import functools
import queue
import time
from collections.abc import Callable
from typing import Any, TypeVar

from beam_job.loading.byte_budget import LargerThanReservedError, Reservation
from beam_job.loading.decode_pool import DecodePool
from beam_job.loading.host_queue import HostQueue
from beam_job.loading.images import FetchedImage, decode, fetch
from beam_job.loading.load_config import LoadConfig
from beam_job.loading.loader import Loader, LoadEvent
from beam_job.records import Failure, ImageInput
from beam_job.storage import CONTENT, LATER, CredentialsError

T = TypeVar("T")
_UNKNOWN_SIZE = 2**20  # bytes reserved for a file of unknown size, until its size is known
_GROWTH = 8  # times the bytes reserved before, for a file that had too few


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
