"""The encoder through LiteRT (TensorFlow Lite with XNNPACK), in half the CPU time of TensorFlow's graph.

One of 8-bit whole numbers takes a fifth, for LiteRT has instructions for them.

It is converted from the Keras encoder, batch normalization folded into the convolutions, and kept in the user's cache:
a .tflite file is executed by an interpreter, so none is ever taken from a bundle.

The decoding loop stays in TensorFlow's graph: its step takes 6.6 ms of CPU a batch here and 8.2 there, and half of the
loop's time is the search between the steps.
"""

from __future__ import annotations

import hashlib
import os
import queue
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from model import file_cache
from model.engine_choice import EngineError
from model.int8_layers import values_for_the_converter
from model.network import Encoder

_SUFFIX = ".tflite"
_MOST_INTERPRETERS = 16  # each has its own copy of the weights
_TOLERANCE = 1e-3  # of the largest feature; the sums are the same but for their order, and differ by 1e-5


class LiteRtEncoder:
    """uint8[B, S, S, 3] -> float32[B, L, U], as `Encoder` does it to within rounding.

    An interpreter of one thread a core, each with one image at a time: no batch is faster, and none needs less memory.
    One interpreter with several threads takes a tenth to a third more CPU, for they wait for each other at every layer.

    Args:
      content: what `converted` gives.

    Raises:
      EngineError: LiteRT is not there, or does not know an operation of it.
    """

    def __init__(self, content: bytes) -> None:
        cores = min(_cores(), _MOST_INTERPRETERS)
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        try:
            from ai_edge_litert.interpreter import Interpreter

            for _ in range(cores):
                interpreter = Interpreter(model_content=content, num_threads=1)
                interpreter.allocate_tensors()
                self._idle.put(interpreter)
        except (ImportError, RuntimeError, ValueError) as error:
            raise EngineError(f"LiteRT cannot run the encoder: {_line(error)}") from error
        [given], [wanted] = interpreter.get_input_details(), interpreter.get_output_details()
        self._input, self._output = given["index"], wanted["index"]
        self._pool = ThreadPoolExecutor(cores, "encode")

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return np.stack(list(self._pool.map(self._encode, images)))

    def _encode(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8[S, S, 3] -> float32[L, U]."""
        interpreter = self._idle.get()
        try:
            interpreter.set_tensor(self._input, image[None])
            interpreter.invoke()  # without Python's lock
            return interpreter.get_tensor(self._output)[0]
        finally:
            self._idle.put(interpreter)


def open_litert_encoder(encoder: Encoder, size: int, checksum: str, tell: Callable[[str], None]) -> LiteRtEncoder:
    """The encoder through LiteRT, converted unless that was done before.

    Args:
      encoder: the same in Keras.
      size: S, side of its images in pixels.
      checksum: of the bundle.
      tell: takes a line for people: conversion takes seconds.

    Raises:
      EngineError: LiteRT cannot run this encoder, or comes to other features.
    """
    key = _key(checksum)
    kept_not = ""
    try:
        if content := file_cache.get(key, _SUFFIX):
            return LiteRtEncoder(content)
    except OSError as error:
        kept_not = str(error)
    started = time.monotonic()
    content = converted(encoder, size, encoder.int8)
    found = LiteRtEncoder(content)
    _check_features(encoder, found, size)
    took = f"converted the encoder for LiteRT in {time.monotonic() - started:.1f} s"
    try:
        if not kept_not:
            tell(f"{took}; kept for later runs in {file_cache.put(key, content, _SUFFIX)}")
            return found
    except OSError as error:
        kept_not = str(error)
    tell(f"{took}; each process does it again, for it cannot be kept: {kept_not}")
    return found


def converted(encode: Callable[[Any], Any], size: int, int8: bool) -> bytes:
    """An encoder, or a part of one, as a .tflite file.

    Args:
      encode: uint8[1, S, S, 3] -> float32[1, L, ...].
      size: S.
      int8: it has layers of `model.int8_layers`.

    Raises:
      EngineError: it cannot be converted.
    """
    images = tf.TensorSpec((1, size, size, 3), tf.uint8)
    graph = tf.function(lambda given: encode(given), input_signature=[images], autograph=False)
    try:
        # Without `trackable_obj`: with it the converter leaves Keras's variables out instead of freezing them.
        with values_for_the_converter():
            converter = tf.lite.TFLiteConverter.from_concrete_functions([graph.get_concrete_function()])
        if int8:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]  # whole numbers where the graph has their ranges
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Statistics for quantized inputs were expected")  # they are in the graph
            return converter.convert()
    except Exception as error:  # Whatever the converter says of layers that it does not know.
        raise EngineError(f"the encoder cannot be converted for LiteRT: {_line(error)}") from error


def _check_features(encoder: Encoder, found: LiteRtEncoder, size: int) -> None:
    """A wrong conversion would give fluent captions of something else."""
    noise = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    features = found(noise)
    wanted = np.asarray(encoder(noise))
    largest = float(np.abs(wanted).max())
    if not np.allclose(features, wanted, rtol=0.0, atol=_TOLERANCE * largest, equal_nan=True):
        difference = float(np.abs(features - wanted).max())
        raise EngineError(
            f"LiteRT's features differ from TensorFlow's by {difference:.3g}, where these reach {largest:.3g}"
        )


def _key(checksum: str) -> str:
    """Of all that decides what the converter writes: the weights, the architecture's code, the converter."""
    key = hashlib.sha256(f"{checksum} {tf.__version__} {keras.__version__}".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        key.update(source.read_bytes())
    return key.hexdigest()


def _cores() -> int:
    """Those that this process may use, which may be fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
