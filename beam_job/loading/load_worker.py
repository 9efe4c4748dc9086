"""A process that loads images for a `ProcessLoader`: it has its own thread loader and returns images on request.

A request is a list of images, an answer is an `Answer`. Both are made of tuples, which take a fifth of a dataclass's
time to pickle; the pixels of an answer lie one after the other in the shared memory, as many as surely fit.
"""

from __future__ import annotations

import dataclasses
import operator
import queue
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

from beam_job.loading.child_process import join_parent, report_ready
from beam_job.loading.load_config import LoadConfig
from beam_job.loading.thread_loader import ThreadLoader
from beam_job.records import Failure, ImageInput
from beam_job.storage import CredentialsError, use_access

GROUP = 16  # images of an answer
_SHARED_BYTES = 16 * 2**20  # for the pixels of an answer; more where one picture may need more
_LINGER_SECONDS = 0.05  # that an answer waits for its group to fill

# A number that the parent chose, and the fields of `ImageInput`.
Given = tuple[Any, ...]
fields_of = operator.attrgetter(*(field.name for field in dataclasses.fields(ImageInput)))
# The number, seconds of fetching and decoding, and the failure, or width, height, object version and image columns of
# the picture, and the height and width of its pixels.
Decoded = tuple[int, int, str, Mapping[str, Any], tuple[int, int]]
Row = tuple[int, tuple[float, float], Failure | Decoded]
# Numbers and bytes of files that have arrived, images that are done, and why no more can be loaded.
Answer = tuple[list[tuple[int, int]], list[Row], BaseException | None]


def shared_bytes(config: LoadConfig) -> int:
    """Size of the memory that both processes see."""
    return max(config.pixel_bytes, min(GROUP * config.pixel_bytes, _SHARED_BYTES))


def main() -> None:
    """Answers requests until the parent closes the connection; the first one is the configuration."""
    connection, memory, _ = join_parent()
    report_ready(connection)
    config: LoadConfig = connection.recv()
    connection.send(None)
    use_access(config.access)
    loader = ThreadLoader(config)
    try:
        _serve(connection, loader, memory, config.pixel_bytes)
    except (EOFError, OSError):
        loader.stop()


def _serve(connection: Connection, loader: ThreadLoader, memory: npt.NDArray[np.uint8], pixel_bytes: int) -> None:
    while True:
        for number, *image in connection.recv():
            loader.put(number, [ImageInput(*image)])
        connection.send(_answer(loader, memory, pixel_bytes))


def _answer(loader: ThreadLoader, memory: npt.NDArray[np.uint8], pixel_bytes: int) -> Answer:
    """What is done by now, or soon."""
    fetched: list[tuple[int, int]] = []
    rows: list[Row] = []
    used = 0
    until = time.monotonic() + _LINGER_SECONDS
    while len(rows) < GROUP and used + pixel_bytes <= len(memory) and loader.pending:
        try:
            [event] = loader.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            break
        except CredentialsError as error:
            return fetched, rows, error
        except BaseException as error:  # perhaps one that cannot be pickled
            return fetched, rows, RuntimeError(repr(error))
        outcome, seconds = event.outcome, (event.fetch_seconds, event.decode_seconds)
        if outcome is None:
            fetched.append((event.key, event.file_bytes or 0))
        elif isinstance(outcome, Failure):
            rows.append((event.key, seconds, outcome))
        else:
            pixels = outcome.pixels
            memory[used : used + pixels.size] = pixels.reshape(-1)
            used += pixels.size
            size = outcome.width, outcome.height
            shape = len(pixels), len(pixels[0])
            rows.append((event.key, seconds, (*size, outcome.object_version, outcome.image_columns, shape)))
    return fetched, rows, None
