"""A process that only decodes images, so that a decoder that crashes, hangs or exhausts memory affects one image.

A request is the file's bytes, an answer is a tuple: `(PIXELS, shape, width, height)`, with the pixels at the start of
the shared memory, `(REFUSED, error)` or `(NO_MEMORY,)`. Imports Pillow and NumPy only, so it starts in some tenths of a
second.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import AvifImagePlugin, Image

from beam_job.loading.child_process import join_parent, report_ready
from model.preprocessing import ImageError, LoadedImage, load_image, load_picture

PIXELS, REFUSED, NO_MEMORY = "pixels", "refused", "no memory"


def main() -> None:
    """Answers requests until the parent closes the connection; the arguments are those of `DecodePool`."""
    connection, pixels, arguments = join_parent()
    size, in_proportion, max_pixels, memory, seconds = map(int, arguments)
    decode = functools.partial(load, size=size, in_proportion=bool(in_proportion), max_pixels=max_pixels)
    with connection:
        # Beyond load_image's own check: Pillow refuses tiles and frames of twice this.
        Image.MAX_IMAGE_PIXELS = max_pixels
        _use_one_thread_per_image()
        report_ready(connection)
        _serve(connection, pixels, decode, memory, seconds)
    os._exit(0)  # the parent waits, and there is nothing that Python would have to tidy up


def load(data: bytes, size: int, in_proportion: bool, max_pixels: int) -> LoadedImage:
    """The pixels as the captioner takes them: a square of `size`, or in proportion within it."""
    return load_picture(data, size, max_pixels) if in_proportion else load_image(data, size, max_pixels)


def _serve(
    connection: Connection,
    pixels: npt.NDArray[np.uint8],
    decode: Callable[[bytes], LoadedImage],
    memory: int,
    seconds: int,
) -> None:
    while True:
        _limit_memory(None)
        try:
            data = connection.recv_bytes()
        except EOFError:
            return
        _limit_memory(memory + 2 * len(data))
        # The parent watches the time too, unless it is dead: then nobody else ends a decoder that hangs.
        signal.alarm(seconds + 5)
        answer = _decode(data, pixels, decode)
        del data  # not to be held until the next file is here
        signal.alarm(0)
        connection.send(answer)


def _decode(data: bytes, pixels: npt.NDArray[np.uint8], decode: Callable[[bytes], LoadedImage]) -> tuple[Any, ...]:
    try:
        image = decode(data)
    except ImageError as error:
        return REFUSED, error
    except MemoryError:
        return (NO_MEMORY,)
    pixels[: image.pixels.size] = image.pixels.reshape(-1)
    return PIXELS, image.pixels.shape, image.width, image.height


def _limit_memory(limit: int | None) -> None:
    """Limits what this process may allocate, in bytes; None for no limit."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return
    _, highest = resource.getrlimit(resource.RLIMIT_DATA)
    if limit is None or (highest != resource.RLIM_INFINITY and limit > highest):
        limit = highest
    resource.setrlimit(resource.RLIMIT_DATA, (limit, highest))


def _use_one_thread_per_image() -> None:
    """The processes run side by side already, and each thread of dav1d holds frames of its own."""
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    try:
        from pillow_heif import options
    except ImportError:
        return
    options.DECODE_THREADS = 1
