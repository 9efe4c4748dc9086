"""Runs the encoder with LiteRT (TensorFlow Lite with XNNPACK), in half the CPU time of TensorFlow's graph.

An 8-bit encoder takes a fifth of the time, since LiteRT has instructions for it.

The LiteRT model is converted from the Keras encoder (`model.litert_converter`) and cached in the user's cache folder.
Importing this module does not import TensorFlow, and neither does opening an encoder that is cached.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import os
import queue
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from model import file_cache
from model.devices import open_gpus
from model.engine_choice import EngineError, check_litert_installed, litert_unavailable, one_line

if TYPE_CHECKING:
    from model.network import Encoder

_SUFFIX = ".tflite"
_MAX_INTERPRETERS = 16  # each holds its own copy of the weights


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
        cores = min(available_cores(), _MAX_INTERPRETERS)
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        try:
            from ai_edge_litert.interpreter import Interpreter

            for _ in range(cores):
                interpreter = Interpreter(model_content=content, num_threads=1)
                interpreter.allocate_tensors()
                self._idle.put(interpreter)
        except (ImportError, RuntimeError, ValueError) as error:
            raise EngineError(f"LiteRT cannot run the encoder: {one_line(error)}") from error
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
    engine: str, build: Callable[[], Encoder], input_size: int, checksum: str, log: Callable[[str], None]
) -> LiteRtEncoder | None:
    """The encoder in the engine that `engine` selects on this machine; None for TensorFlow's graph.

    Args:
      engine: one of `model.engine_choice.ENGINES`; "auto" falls back to TensorFlow, and logs why, if LiteRT cannot
        run the encoder.
      build: makes the Keras layer; called only if the cache lacks its conversion.
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
        return _open_cached(build, input_size, checksum, log)
    except EngineError as error:
        if engine == "litert":
            raise litert_unavailable(error) from error
        log(f"the encoder runs in TensorFlow, which takes two to five times the CPU time: {error}")
        return None


def _open_cached(
    build: Callable[[], Encoder], input_size: int, checksum: str, log: Callable[[str], None]
) -> LiteRtEncoder:
    """The encoder in LiteRT, converted unless the cache has it."""
    key = _cache_key(checksum)
    not_cached = ""
    try:
        if content := file_cache.get(key, _SUFFIX):
            return LiteRtEncoder(content)
    except OSError as error:
        not_cached = str(error)
    from model.litert_converter import check_features, convert_encoder

    encoder = build()
    started = time.monotonic()
    content = convert_encoder(encoder, input_size, encoder.int8)
    converted = LiteRtEncoder(content)
    check_features(encoder, converted, input_size)
    done = f"converted the encoder for LiteRT in {time.monotonic() - started:.1f} s"
    try:
        if not not_cached:
            log(f"{done}; kept for later runs in {file_cache.put(key, content, _SUFFIX)}")
            return converted
    except OSError as error:
        not_cached = str(error)
    log(f"{done}; every process repeats this, because the result cannot be cached: {not_cached}")
    return converted


def _cache_key(checksum: str) -> str:
    """Covers all that the converter's result depends on: the weights, the code of the architecture, the converter."""
    versions = " ".join(f"{name} {_version_of(name)}" for name in ("tensorflow", "keras"))
    key = hashlib.sha256(f"{checksum} {versions}".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        key.update(source.read_bytes())
    return key.hexdigest()


def _version_of(package: str) -> str:
    """The version of an installed package, which is imported only if pip installed it under another name."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return str(importlib.import_module(package).__version__)


def available_cores() -> int:
    """Cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
