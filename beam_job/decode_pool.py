"""Image files to pixels, where a file that breaks its decoder costs one image.

Plain JPEGs, most of what there is, are decoded in the thread that asks, with libjpeg's own scaling. Anything else goes
to a process of `beam_job.decode_worker`: there is a handful of them, started when first needed, each working for one
thread at a time; one that dies, hangs or wants too much memory is replaced.

Where a GPU waits for images, plain JPEGs go to processes too: threads stop scaling at about 8, for the interpreter's
lock. Of 500x375 pixels 16 cores decode 1,600 a second in threads and 3,200 in processes. A process takes a tenth more
CPU in all, but of this one 0.3 to 0.4 ms an image of any size, instead of 2 to 16. The pixels are the same.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
from typing import BinaryIO

from beam_job import decode_worker as worker
from model.jpeg import is_plain_jpeg
from model.preprocessing import MAX_PIXELS, ImageError, LoadedImage, load_image

# Measured with 100 million pixels: WebP holds 17 bytes a pixel, RGBA in PNG 9, AVIF 13, TIFF 12 and the file.
_BYTES_A_PIXEL = 24
_BYTES_ASIDE = 512 * 2**20
_START_SECONDS = 60.0
_PROGRAM = "from beam_job.decode_worker import main; main()"


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
      plain_apart: plain JPEGs go to the processes as well.
      seconds: whole ones; a process that has not answered after these is killed.
      memory: bytes that a process may take; None for what `max_pixels` need in the greediest format.
      program: what a process runs, in Python.
    """

    def __init__(
        self,
        workers: int,
        size: int,
        max_pixels: int = MAX_PIXELS,
        plain_apart: bool = False,
        seconds: int = 30,
        memory: int | None = None,
        program: str = _PROGRAM,
    ) -> None:
        self._size = size
        self._max_pixels = max_pixels
        self._plain_apart = plain_apart
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
        if not data or (not self._plain_apart and is_plain_jpeg(data)):
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
        self.is_idle = True
        # Isolated, with this process's path: a file of the user's working folder must not be taken for a module.
        code = f"import sys; sys.path[:] = {sys.path!r}; {program}"
        self._socket, theirs = socket.socketpair()
        # Beam sets a default timeout once it has logged in to Google, and a process that inherits a socket with a
        # timeout has one that does not wait at all.
        theirs.setblocking(True)
        with theirs, tempfile.TemporaryFile() as said, _shared_memory() as shared:
            self._pixels = worker.map_pixels(os.dup(shared.fileno()), size)
            numbers = [str(number) for number in (shared.fileno(), size, max_pixels, memory, seconds)]
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", code, *numbers],
                stdin=theirs.fileno(),
                stdout=said,
                stderr=said,
                pass_fds=[shared.fileno()],
                start_new_session=True,  # Ctrl-C at the terminal is for this process, which then closes the socket
            )
            theirs.close()  # so that the end of the process is seen as the end of its messages
            try:
                self._socket.settimeout(_START_SECONDS)
                worker.receive(self._socket, worker.REPLY.size)
            except (OSError, EOFError) as error:
                self.end()
                said.seek(0)
                lines = said.read().decode("utf-8", "replace").strip().splitlines() or [str(error)]
                raise DecoderStartError(f"no process for decoding could be started: {lines[-1]}") from error
        self._socket.settimeout(seconds)

    def has_died(self) -> bool:
        """Whether there is no process any more; what is left of it is cleared away then."""
        died = self._process.poll() is not None
        if died:
            self.end()
        return died

    def load(self, data: bytes) -> LoadedImage:
        """Has one image decoded. Raises as `DecodePool.load`."""
        self.is_idle = False
        try:
            sent = self._socket.sendmsg([worker.REQUEST.pack(len(data)), data])
            self._socket.sendall(memoryview(data)[sent - worker.REQUEST.size :])
            kind, width, height, length = worker.REPLY.unpack(worker.receive(self._socket, worker.REPLY.size))
            text = worker.receive(self._socket, length)
            self.is_idle = True
        except TimeoutError as error:
            self.end()
            raise DecoderError(f"decoding took longer than {self._seconds} s") from error
        except (OSError, EOFError) as error:
            raise DecoderDiedError(f"the decoder died ({_cause(self.end())})") from error
        if kind == worker.REFUSED:
            raise ImageError(text.decode())
        if kind == worker.NO_MEMORY:
            self.end()  # what the failed attempt left behind goes with it
            raise DecoderError(f"decoding needs more than {self._memory // 2**20:,} MB of memory")
        return LoadedImage(self._pixels.copy(), width, height)

    def end(self) -> int:
        """Ends the process, at once where it is busy; its exit code."""
        self.is_idle = False
        self._socket.close()
        try:
            return self._process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def _shared_memory() -> BinaryIO:
    """A file without a name or, where the system has that, without a disk."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("pixels"), "r+b")
    return tempfile.TemporaryFile()


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {-code}, {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
