"""Runs the encoder on all cores outside TensorFlow."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

# uint8[S, S, 3] -> float32[L, U]
EncodeImage = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
_MAX_SIZE = 16  # each function has buffers of its own


class EncoderPool:
    """Encodes the images of a batch in parallel: uint8[B, S, S, 3] -> float32[B, L, U]. Thread-safe.

    Each core encodes one image at a time: larger batches are not faster and need more memory, and several threads for
    one image take 10 to 30 % more CPU, because they wait for each other at every layer.

    Args:
      engine: what computes: "litert" or "openvino".
      encoders: functions that use one thread each, and release the GIL.
    """

    def __init__(self, engine: str, encoders: Sequence[EncodeImage]) -> None:
        self.engine = engine
        self._idle: queue.SimpleQueue[EncodeImage] = queue.SimpleQueue()
        for encode in encoders:
            self._idle.put(encode)
        self._threads = ThreadPoolExecutor(len(encoders), "encode")

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return np.stack(list(self._threads.map(self._encode, images)))

    def _encode(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        encode = self._idle.get()
        try:
            return encode(image)
        finally:
            self._idle.put(encode)


def pool_size() -> int:
    """The number of functions for a pool: one for each core."""
    return min(available_cores(), _MAX_SIZE)


def available_cores() -> int:
    """Cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
