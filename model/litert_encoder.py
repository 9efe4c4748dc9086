"""Runs the encoder with LiteRT (TensorFlow Lite with XNNPACK), in half the CPU time of TensorFlow's graph.

An 8-bit encoder takes a fifth of the time, since LiteRT has instructions for it.

The LiteRT model is converted from the Keras encoder, with batch normalization folded into the convolutions, and cached
in the user's cache folder. It never comes from a bundle: a .tflite file is a program for an interpreter.

The decoding loop stays in TensorFlow's graph. A batch of one step takes 6.6 ms of CPU there and 8.2 ms in LiteRT, and
half of the loop's time is the search between the steps.
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
from model.devices import open_gpus
from model.engine_choice import EngineError, check_litert_installed, litert_unavailable
from model.int8_layers import values_for_the_converter
from model.network import Encoder

_SUFFIX = ".tflite"
_MAX_INTERPRETERS = 16  # each holds its own copy of the weights
# Relative to the largest feature. The sums differ only in their order, which accounts for 1e-5.
_TOLERANCE = 1e-3


class LiteRtEncoder:
    """The encoder in LiteRT: uint8[B, S, S, 3] -> float32[B, L, U], equal to `Encoder` except for rounding.

    There is one single-threaded interpreter for each core, and each encodes one image at a time: larger batches are not
    faster and need more memory. One interpreter with several threads takes 10 to 30 % more CPU, because its threads
    wait for each other at every layer.

    Args:
      content: a .tflite file, as `convert_encoder` returns it.

    Raises:
      EngineError: LiteRT is missing, or does not support an operation of the encoder.
    """

    def __init__(self, content: bytes) -> None:
        cores = min(_available_cores(), _MAX_INTERPRETERS)
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        try:
            from ai_edge_litert.interpreter import Interpreter

            for _ in range(cores):
                interpreter = Interpreter(model_content=content, num_threads=1)
                interpreter.allocate_tensors()
                self._idle.put(interpreter)
        except (ImportError, RuntimeError, ValueError) as error:
            raise EngineError(f"LiteRT cannot run the encoder: {_one_line(error)}") from error
        [given], [result] = interpreter.get_input_details(), interpreter.get_output_details()
        self._input, self._output = given["index"], result["index"]
        self._pool = ThreadPoolExecutor(cores, "encode")

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return np.stack(list(self._pool.map(self._encode, images)))

    def _encode(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8[S, S, 3] -> float32[L, U]."""
        interpreter = self._idle.get()
        try:
            interpreter.set_tensor(self._input, image[None])
            interpreter.invoke()  # releases the GIL
            return interpreter.get_tensor(self._output)[0]
        finally:
            self._idle.put(interpreter)


def open_encoder(
    engine: str, encoder: Encoder, input_size: int, checksum: str, log: Callable[[str], None]
) -> LiteRtEncoder | None:
    """The encoder in the engine that `engine` selects on this machine; None for TensorFlow's graph.

    Args:
      engine: one of `model.engine_choice.ENGINES`; "auto" falls back to TensorFlow, and logs why, if LiteRT cannot
        run the encoder.
      encoder: the Keras layer.
      input_size: S, the side of its images in pixels.
      checksum: identifies the bundle.
      log: receives one-line messages.

    Raises:
      EngineError: `engine` is "litert", and LiteRT cannot run the encoder.
    """
    if engine == "tensorflow" or (engine == "auto" and open_gpus()):
        return None
    try:
        check_litert_installed()
        return _open_cached(encoder, input_size, checksum, log)
    except EngineError as error:
        if engine == "litert":
            raise litert_unavailable(error) from error
        log(f"the encoder runs in TensorFlow, which takes two to five times the CPU time: {error}")
        return None


def _open_cached(encoder: Encoder, input_size: int, checksum: str, log: Callable[[str], None]) -> LiteRtEncoder:
    """The encoder in LiteRT, converted unless the cache has it."""
    key = _cache_key(checksum)
    not_cached = ""
    try:
        if content := file_cache.get(key, _SUFFIX):
            return LiteRtEncoder(content)
    except OSError as error:
        not_cached = str(error)
    started = time.monotonic()
    content = convert_encoder(encoder, input_size, encoder.int8)
    converted = LiteRtEncoder(content)
    _check_features(encoder, converted, input_size)
    done = f"converted the encoder for LiteRT in {time.monotonic() - started:.1f} s"
    try:
        if not not_cached:
            log(f"{done}; kept for later runs in {file_cache.put(key, content, _SUFFIX)}")
            return converted
    except OSError as error:
        not_cached = str(error)
    log(f"{done}; every process repeats this, because the result cannot be cached: {not_cached}")
    return converted


def convert_encoder(encode: Callable[[Any], Any], input_size: int, int8: bool) -> bytes:
    """Converts an encoder, or a part of one, to a .tflite file.

    Args:
      encode: uint8[1, S, S, 3] -> float32[1, L, ...].
      input_size: S.
      int8: whether it has layers of `model.int8_layers`.

    Raises:
      EngineError: the converter does not support the encoder.
    """
    images = tf.TensorSpec((1, input_size, input_size, 3), tf.uint8)
    graph = tf.function(lambda given: encode(given), input_signature=[images], autograph=False)
    try:
        # Without `trackable_obj`, with which the converter omits Keras's variables instead of freezing them.
        with values_for_the_converter():
            converter = tf.lite.TFLiteConverter.from_concrete_functions([graph.get_concrete_function()])
        if int8:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]  # integers wherever the graph has their ranges
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Statistics for quantized inputs were expected")  # the graph has them
            return converter.convert()
    except Exception as error:  # the converter raises many types for layers that it does not support
        raise EngineError(f"the encoder cannot be converted for LiteRT: {_one_line(error)}") from error


def _check_features(encoder: Encoder, converted: LiteRtEncoder, input_size: int) -> None:
    """Compares features of noise: after a wrong conversion, captions would be fluent and describe something else."""
    noise = np.random.default_rng(0).integers(0, 256, (1, input_size, input_size, 3), np.uint8)
    features = converted(noise)
    expected = np.asarray(encoder(noise))
    largest = float(np.abs(expected).max())
    if not np.allclose(features, expected, rtol=0.0, atol=_TOLERANCE * largest, equal_nan=True):
        difference = float(np.abs(features - expected).max())
        raise EngineError(
            f"LiteRT's features differ from TensorFlow's by {difference:.3g}, with values up to {largest:.3g}"
        )


def _cache_key(checksum: str) -> str:
    """Covers all that the converter's result depends on: the weights, the code of the architecture, the converter."""
    key = hashlib.sha256(f"{checksum} {tf.__version__} {keras.__version__}".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        key.update(source.read_bytes())
    return key.hexdigest()


def _available_cores() -> int:
    """Cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
