"""Decodes image files to pixels; a file that breaks its decoder costs one image.

Plain JPEGs, the most common format, are decoded in the calling thread, with libjpeg's own scaling. Everything else goes
to a process of `decode_worker`. There are a few of them, started on demand, each serving one thread at a time; a
process that dies, hangs or takes too much memory is replaced.
"""

from __future__ import annotations

import queue

from beam_job.loading import decode_worker as worker
from beam_job.loading.child_process import ChildStartError, exit_told, start_child
from model.jpeg import is_plain_jpeg
from model.preprocessing import MAX_PIXELS, ImageError, LoadedImage, load_image

# Measured with 100 million pixels: WebP holds 17 bytes a pixel, RGBA in PNG 9, AVIF 13, TIFF 12 and the file.
_BYTES_A_PIXEL = 24
_BYTES_ASIDE = 512 * 2**20
_PROGRAM = "from beam_job.loading.decode_worker import main; main()"


class DecoderError(ImageError):
    """The image broke its decoder: its process died, hung or asked for too much memory."""


class DecoderDiedError(DecoderError):
    """The process died while it had the image."""


class DecoderStartError(RuntimeError):
    """No process for decoding can be started here; not the image's fault."""


class DecodePool:
    """Decodes images; `load` may be called from any thread, and waits where all processes are taken.

    Args:
      workers: processes at most.
      size: side of the captioner's images, in pixels.
      max_pixels: as of `model.load_image`.
      seconds: whole ones; a process that has not answered after these is killed.
      memory: bytes that a process may take; None for what `max_pixels` need in the greediest format.
      program: what a process runs, in Python.
    """

    def __init__(
        self,
        workers: int,
        size: int,
        max_pixels: int = MAX_PIXELS,
        seconds: int = 30,
        memory: int | None = None,
        program: str = _PROGRAM,
    ) -> None:
        self._size = size
        self._max_pixels = max_pixels
        self._seconds = seconds
        self._memory = memory or _BYTES_ASIDE + _BYTES_A_PIXEL * max_pixels
        self._program = program
        self._workers = workers
        # A place for each process, with None where none runs; the last one that worked is taken first.
        self._places: queue.LifoQueue[_Process | None] = queue.LifoQueue()
        for _ in range(workers):
            self._places.put(None)

    def load(self, data: bytes) -> LoadedImage:
        """Decodes and scales a whole image file.

        Raises:
          ImageError: as `model.load_image` does, or a DecoderError where it broke its process.
          DecoderStartError: no process could be started.
        """
        if not data or is_plain_jpeg(data):
            return load_image(data, self._size, self._max_pixels)
        try:
            return self._load_apart(data)
        except DecoderDiedError:
            # Perhaps not by this image: the system kills idle processes too where memory is short.
            return self._load_apart(data)

    def _load_apart(self, data: bytes) -> LoadedImage:
        process = self._places.get()
        try:
            if process and process.has_died():  # as the system kills idle ones where memory is short
                process = None
            process = process or _Process(self._program, self._size, self._max_pixels, self._memory, self._seconds)
            return process.load(data)
        finally:
            self._places.put(process if process and process.is_idle else None)

    def close(self) -> None:
        """Ends the processes, when their last images are done."""
        for process in [self._places.get() for _ in range(self._workers)]:
            if process:
                process.end()


class _Process:
    """A running worker, the socket to it, and memory that both share, for the pixels.

    Attributes:
      is_idle: whether it can take an image; never again once it has died, was killed, or is out of step.
    """

    def __init__(self, program: str, size: int, max_pixels: int, memory: int, seconds: int) -> None:
        self._memory = memory
        self._seconds = seconds
        try:
            self._child = start_child(program, 3 * size**2, (size, max_pixels, memory, seconds))
        except ChildStartError as error:
            raise DecoderStartError(f"no process for decoding could be started: {error}") from error
        self._child.socket.settimeout(seconds)
        self._pixels = self._child.memory.reshape(size, size, 3)
        self.is_idle = True

    def has_died(self) -> bool:
        """Whether there is no process any more; what is left of it is cleared away then."""
        died = self._child.process.poll() is not None
        if died:
            self.end()
        return died

    def load(self, data: bytes) -> LoadedImage:
        """Has one image decoded. Raises as `DecodePool.load`."""
        self.is_idle = False
        try:
            connection = self._child.socket
            connection.sendall(worker.REQUEST.pack(len(data)))
            connection.sendall(data)
            kind, width, height, length = worker.REPLY.unpack(worker.receive(connection, worker.REPLY.size))
            text = worker.receive(connection, length)
            self.is_idle = True
        except TimeoutError as error:
            self.end()
            raise DecoderError(f"decoding took longer than {self._seconds} s") from error
        except (OSError, EOFError) as error:
            raise DecoderDiedError(f"the decoder died ({exit_told(self.end())})") from error
        if kind == worker.REFUSED:
            raise ImageError(text.decode())
        if kind == worker.NO_MEMORY:
            self.end()  # what the failed attempt left behind goes with it
            raise DecoderError(f"decoding needs more than {self._memory // 2**20:,} MB of memory")
        return LoadedImage(self._pixels.copy(), width, height)

    def end(self) -> int:
        """Ends the process, at once where it is busy; its exit code."""
        self.is_idle = False
        return self._child.end()
