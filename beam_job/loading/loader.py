"""Images fetched and decoded in threads: URIs in, pixels or failures out, in the order in which they are done."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from beam_job.config import JobConfig
from beam_job.inputs.filters import Filters
from beam_job.loading.decode_pool import DecodePool
from beam_job.loading.images import FetchedImage, decode, fetch
from beam_job.records import DecodedImage, Failure, ImageInput
from beam_job.storage import Allowed, CredentialsError

T = TypeVar("T")


@dataclass(frozen=True)
class LoadConfig:
    """What loading depends on.

    Attributes:
      input_size: side of the captioner's images, in pixels.
      fetch_threads: images that are fetched at the same time.
      decode_threads: images that are decoded at the same time.
      max_pixels: as of `model.load_image`.
      fetch_timeout: seconds for an image, retries included.
      allowed: what may be read.
      filters: whose sizes an image from a list meets when it is fetched.
    """

    input_size: int
    fetch_threads: int
    decode_threads: int
    max_pixels: int
    fetch_timeout: float
    allowed: Allowed
    filters: Filters

    @classmethod
    def of(cls, config: JobConfig, input_size: int, on_gpu: bool) -> LoadConfig:
        """From the job's, for the cores of this machine: the one that launched the job may have others."""
        fetch, decode = default_threads(os.cpu_count() or 1, on_gpu)
        limits = config.max_pixels, config.fetch_timeout, config.allowed, config.filters
        return cls(input_size, config.fetch_threads or fetch, config.decode_threads or decode, *limits)


def default_threads(cores: int, on_gpu: bool) -> tuple[int, int]:
    """Images fetched, and images decoded, at the same time, where nobody has said how many.

    32 processes beside a GPU bring 11,000 small images a second or 2,900 large ones, by `runners.estimate`; the
    model's process passed on 3,300.
    """
    if not on_gpu:
        return 32, min(8, cores)
    processes = min(32, cores)
    return 8 * processes, processes


@dataclass(frozen=True)
class Loaded:
    """What became of an image.

    Attributes:
      outcome: it, or why there is none.
      size: bytes of its file; None where it could not be fetched.
      fetch_seconds: spent on it.
      decode_seconds: likewise.
    """

    outcome: DecodedImage | Failure
    size: int | None
    fetch_seconds: float
    decode_seconds: float = 0.0


class Receiver(Protocol):
    """Whom a loader tells, of one image or of several at once; its methods are called from any thread.

    Images go by the keys that they were given with.
    """

    def fetched(self, sizes: Sequence[tuple[Any, int]]) -> None:
        """These images' files are there, of so many bytes; they are decoded now."""

    def loaded(self, images: Sequence[tuple[Any, Loaded]]) -> None:
        """These images are done; each comes once."""

    def fail(self, error: BaseException) -> None:
        """No image can be loaded any more, as when nobody is logged in."""


class Loader(Protocol):
    """Loads images; any thread may call it."""

    def put(self, key: Any, image: ImageInput) -> None:
        """Takes an image in, without waiting; `key` is what the receiver is told."""

    def close(self) -> None:
        """Waits until all images are done, and ends all threads and processes."""

    def stop(self) -> None:
        """Drops the images that are waiting; the receiver may still be told of those under way. `close` returns."""


class ThreadLoader:
    """A `Loader` of threads in this process: first some that fetch, then some that decode."""

    def __init__(self, receiver: Receiver, config: LoadConfig) -> None:
        self._receiver = receiver
        self._limits = config.fetch_timeout, config.allowed, config.filters
        self._pool = DecodePool(config.decode_threads, config.input_size, config.max_pixels)
        self._to_fetch: queue.SimpleQueue[tuple[Any, ImageInput] | None] = queue.SimpleQueue()
        self._to_decode: queue.SimpleQueue[tuple[Any, FetchedImage, float] | None] = queue.SimpleQueue()
        self._stopped = False
        # Not an executor's threads: a process waits for those before it ends, and a fetch may hang for its timeout.
        self._fetchers = _start("fetch", config.fetch_threads, self._fetch_queued)
        self._decoders = _start("decode", config.decode_threads, self._decode_queued)

    def put(self, key: Any, image: ImageInput) -> None:
        self._to_fetch.put((key, image))

    def close(self) -> None:
        self._end(self._fetchers, self._to_fetch)
        self._end(self._decoders, self._to_decode)
        self._pool.close()

    def stop(self) -> None:
        self._stopped = True

    def _end(self, threads: list[threading.Thread], tasks: queue.SimpleQueue[Any]) -> None:
        for _ in threads:
            tasks.put(None)
        for thread in threads:
            while thread.is_alive() and not self._stopped:
                thread.join(0.1)

    def _fetch_queued(self) -> None:
        while (task := self._to_fetch.get()) is not None and not self._stopped:
            try:
                self._fetch(*task)
            except BaseException as error:
                self._receiver.fail(error)

    def _fetch(self, key: Any, image: ImageInput) -> None:
        fetched, seconds = _timed("fetch", image, lambda: fetch(image, *self._limits))
        if isinstance(fetched, Failure):
            self._receiver.loaded([(key, Loaded(fetched, None, seconds))])
        else:
            self._receiver.fetched([(key, len(fetched.data))])
            self._to_decode.put((key, fetched, seconds))

    def _decode_queued(self) -> None:
        while (task := self._to_decode.get()) is not None and not self._stopped:
            self._decode(*task)

    def _decode(self, key: Any, fetched: FetchedImage, fetch_seconds: float) -> None:
        outcome, seconds = _timed("decode", fetched.input, lambda: decode(fetched, self._pool))
        self._receiver.loaded([(key, Loaded(outcome, len(fetched.data), fetch_seconds, seconds))])


def _start(name: str, count: int, work: Callable[[], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=work, name=f"{name}-{number}", daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


def _timed(stage: str, image: ImageInput, work: Callable[[], T | Failure]) -> tuple[T | Failure, float]:
    """`work` and its seconds; what it should have caught and did not is a failure of this image too."""
    started = time.monotonic()
    try:
        outcome = work()
    except CredentialsError:
        raise
    except BaseException as error:  # in a thread nobody else would see it, and the image's shard would wait for ever
        outcome = Failure.of(image.uri, stage, error, image.object_version)
    return outcome, time.monotonic() - started
