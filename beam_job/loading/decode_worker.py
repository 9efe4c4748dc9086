"""A process that decodes images and nothing else, so that a decoder's crash, hang or greed costs one image.

It speaks over one socket: a request is the file's length (8 bytes) and the file; a reply is `REPLY`, then its text
(UTF-8). The pixels lie in memory that it shares with the other end. Imports Pillow and NumPy only, so it starts in some
tenths of a second.
"""

from __future__ import annotations

import signal
import socket
import struct

import numpy as np
import numpy.typing as npt
from PIL import AvifImagePlugin, Image

from beam_job.loading.child_process import join_parent, tell_ready
from model.preprocessing import ImageError, load_image

REQUEST = struct.Struct(">Q")  # bytes that follow
REPLY = struct.Struct(">cIIQ")  # one of the three below, width, height, bytes that follow
PIXELS, REFUSED, NO_MEMORY = b"p", b"r", b"m"


def main() -> None:
    """Serves requests until the other end of the socket is closed; the arguments are those of `_serve`."""
    connection, pixels, arguments = join_parent()
    size, max_pixels, memory, seconds = map(int, arguments)
    with connection:
        # Beyond load_image's own check: Pillow refuses tiles and frames of twice this.
        Image.MAX_IMAGE_PIXELS = max_pixels
        _one_thread_an_image()
        tell_ready(connection)
        _serve(connection, pixels.reshape(size, size, 3), size, max_pixels, memory, seconds)


def receive(connection: socket.socket, length: int) -> bytearray:
    """Exactly `length` bytes. Raises EOFError where the other end is closed before."""
    data = bytearray(length)
    view, at = memoryview(data), 0
    while at < length:
        count = connection.recv_into(view[at:])
        if count == 0:
            raise EOFError("the other end is closed")
        at += count
    return data


def _serve(
    connection: socket.socket,
    pixels: npt.NDArray[np.uint8],
    size: int,
    max_pixels: int,
    memory: int,
    seconds: int,
) -> None:
    while True:
        try:
            [length] = REQUEST.unpack(receive(connection, REQUEST.size))
            _limit_memory(memory + 2 * length)
            data = bytes(receive(connection, length))
        except EOFError:
            return
        # The other end watches the time too, unless it is dead: then nobody else ends a decoder that hangs.
        signal.alarm(seconds + 5)
        try:
            image = load_image(data, size, max_pixels)
            pixels[:] = image.pixels
            reply = _reply(PIXELS, width=image.width, height=image.height)
        except ImageError as error:
            reply = _reply(REFUSED, str(error).encode())
        except MemoryError:
            reply = _reply(NO_MEMORY)
        signal.alarm(0)
        connection.sendall(reply)


def _reply(kind: bytes, payload: bytes = b"", width: int = 0, height: int = 0) -> bytes:
    return REPLY.pack(kind, width, height, len(payload)) + payload


def _limit_memory(limit: int) -> None:
    try:
        import resource
    except ImportError:  # not a POSIX system
        return
    _, highest = resource.getrlimit(resource.RLIMIT_DATA)
    if highest == resource.RLIM_INFINITY or limit <= highest:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, highest))


def _one_thread_an_image() -> None:
    """The processes run side by side already, and each thread of dav1d holds frames of its own."""
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    try:
        from pillow_heif import options
    except ImportError:
        return
    options.DECODE_THREADS = 1
