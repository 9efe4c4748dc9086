"""A process that decodes images and nothing else, so that a decoder's crash, hang or greed costs one image.

It speaks over one socket, its standard input: a request is the file's length (8 bytes) and the file; a reply is
`REPLY`, then its text (UTF-8). The pixels lie in memory that it shares with the other end. Imports Pillow and NumPy
only, so it starts in some tenths of a second.
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
import struct
import sys

import numpy as np
import numpy.typing as npt
from PIL import AvifImagePlugin, Image

from model.preprocessing import ImageError, load_image

REQUEST = struct.Struct(">Q")  # bytes that follow
REPLY = struct.Struct(">cIIQ")  # one of the four below, width, height, bytes that follow
READY, PIXELS, REFUSED, NO_MEMORY = b"!", b"p", b"r", b"m"


def main() -> None:
    """Serves requests until the other end of the socket is closed; the arguments are those of `_serve`."""
    with socket.socket(fileno=os.dup(0)) as connection:
        shared, size, max_pixels, memory, seconds = map(int, sys.argv[1:])
        pixels = map_pixels(shared, size)
        _silence()
        # Beyond load_image's own check: Pillow refuses tiles and frames of twice this.
        Image.MAX_IMAGE_PIXELS = max_pixels
        _one_thread_an_image()
        connection.sendall(_reply(READY))
        _serve(connection, pixels, size, max_pixels, memory, seconds)


def map_pixels(shared: int, size: int) -> npt.NDArray[np.uint8]:
    """uint8[size, size, 3] in the memory behind the descriptor `shared`, which is closed."""
    with os.fdopen(shared, "r+b") as file:
        file.truncate(3 * size**2)
        memory = mmap.mmap(file.fileno(), 3 * size**2)
    return np.frombuffer(memory, np.uint8).reshape(size, size, 3)


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


def _silence() -> None:
    """C libraries print to descriptors 1 and 2, each about its own image; nobody reads that."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)


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
