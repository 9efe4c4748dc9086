"""Decodes image files to pixels; a file that crashes its decoder affects only one image.

Plain JPEGs, the most common format, are decoded in the calling thread, with libjpeg's own scaling. Everything else goes
to a process of `decode_worker`. There are a few of them, started on demand, each serving one thread at a time; a
process that dies, hangs or takes too much memory is replaced.
"""

from __future__ import annotations

import math
import queue

from beam_job.loading import decode_worker as worker
from beam_job.loading.child_process import ChildStartError, format_exit_code, start_child, was_killed
from model.jpeg import is_plain_jpeg
from model.preprocessing import MAX_PIXELS, ImageError, LoadedImage

# Measured with 100 million pixels: WebP holds 17 bytes a pixel, RGBA in PNG 9, AVIF 13, TIFF 12 and the file.
_BYTES_PER_PIXEL = 24
_OTHER_BYTES = 512 * 2**20
_PROGRAM = "from beam_job.loading.decode_worker import main; main()"


class DecoderError(ImageError):
    """The image broke its decoder: its process crashed, and crashed again with the image alone."""


class DecoderLimitError(DecoderError):
    """Decoding took too long, needed too much memory, or was killed: on a host that is less busy it may succeed."""


class DecoderStartError(RuntimeError):
    """No process for decoding can be started here; not the image's fault."""


class _DiedError(Exception):
    """The process ended while it had the image.

    Attributes:
      code: its exit code.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class DecodePool:
    """Decodes images; `load` may be called from any thread, and waits while all processes are busy.

    Args:
      workers: the most processes at a time.
      size: side of the captioner's images, in pixels; with `in_proportion`, the longest side.
      max_pixels: see `model.load_image`.
      in_proportion: whether the aspect ratio is kept.
      seconds: whole ones; a process that has not answered after these is killed.
      memory: bytes that a process may take; None for what `max_pixels` need in the greediest format.
      program: Python code that a process runs.
    """

    def __init__(
        self,
        workers: int,
        size: int,
        max_pixels: int = MAX_PIXELS,
        seconds: int = 30,
        memory: int | None = None,
        program: str = _PROGRAM,
        in_proportion: bool = False,
    ) -> None:
        self._size = size
        self._in_proportion = in_proportion
        self._max_pixels = max_pixels
        self._seconds = seconds
        self._memory = memory or _OTHER_BYTES + _BYTES_PER_PIXEL * max_pixels
        self._program = program
        self._workers = workers
        # A slot for each process, None where none runs; the process that worked last is taken first.
        self._slots: queue.LifoQueue[_Process | None] = queue.LifoQueue()
        for _ in range(workers):
            self._slots.put(None)

    def load(self, data: bytes) -> LoadedImage:
        """Decodes and scales a whole image file.

        Raises:
          ImageError: as `model.load_image` does; a DecoderError if the image broke its process twice.
          DecoderStartError: no process could be started.
        """
        if not data or is_plain_jpeg(data):
            return worker.load(data, self._size, self._in_proportion, self._max_pixels)
        try:
            return self._load_in_process(data)
        except _DiedError:
            pass  # perhaps not because of this image: the system kills idle processes too when memory is short
        try:
            return self._load_in_process(data)
        except _DiedError as error:
            kind = DecoderLimitError if was_killed(error.code) else DecoderError
            raise kind(f"the decoder died twice ({format_exit_code(error.code)})") from error

    def _load_in_process(self, data: bytes) -> LoadedImage:
        process = self._slots.get()
        try:
            if process and process.has_died():
                process = None
            process = process or _Process(
                self._program, self._size, self._in_proportion, self._max_pixels, self._memory, self._seconds
            )
            return process.load(data)
        finally:
            self._slots.put(process if process and process.is_idle else None)

    def close(self) -> None:
        """Ends the processes, when their last images are done."""
        processes = [process for process in (self._slots.get() for _ in range(self._workers)) if process]
        for process in processes:
            process.hang_up()  # all at once, so that they end side by side
        for process in processes:
            process.end()


class _Process:
    """A running `decode_worker`.

    Attributes:
      is_idle: whether it can take an image; never again once it has died or was ended.
    """

    def __init__(
        self, program: str, size: int, in_proportion: bool, max_pixels: int, memory: int, seconds: int
    ) -> None:
        self._memory = memory
        self._seconds = seconds
        arguments = (size, int(in_proportion), max_pixels, memory, seconds)
        try:
            self._child = start_child(program, 3 * size**2, seconds, arguments)
        except ChildStartError as error:
            raise DecoderStartError(f"no process for decoding could be started: {error}") from error
        self.is_idle = True

    def has_died(self) -> bool:
        """Whether the process has ended by itself; then its resources are released."""
        died = self._child.process.poll() is not None
        if died:
            self.end()
        return died

    def load(self, data: bytes) -> LoadedImage:
        """Has one image decoded.

        Raises:
          ImageError: as `DecodePool.load`.
          _DiedError: the process died.
        """
        self.is_idle = False
        try:
            kind, *details = self._child.ask(data)
        except TimeoutError as error:
            self.end()
            raise DecoderLimitError(f"decoding took longer than {self._seconds} s") from error
        except (OSError, EOFError) as error:
            raise _DiedError(self.end()) from error
        if kind == worker.NO_MEMORY:
            self.end()  # and with it what the failed attempt has left in memory
            raise DecoderLimitError(f"decoding needs more than {self._memory // 2**20:,} MB of memory")
        self.is_idle = True
        if kind == worker.REFUSED:
            raise details.pop()  # a frame that refers to its own error lives until the next garbage collection
        shape, width, height = details
        return LoadedImage(self._child.memory[: math.prod(shape)].reshape(shape).copy(), width, height)

    def hang_up(self) -> None:
        """Lets the process end by itself; `end` waits for that."""
        self._child.connection.close()

    def end(self) -> int:
        """Ends the process, killing it if it is busy; returns its exit code."""
        self.is_idle = False
        return self._child.end()
