"""Opens the encoder in the engine that the user or the machine chooses.

The LiteRT model is converted from the Keras encoder (`model.litert_converter`) and cached in the user's cache folder.
Importing this module does not import TensorFlow, and neither does opening an encoder that is cached.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from model import file_cache
from model.devices import open_gpus
from model.encoder_pool import EncoderPool
from model.engine_choice import CPU_ENGINES, EngineError, check_installed, unavailable
from model.litert_encoder import open_litert
from model.openvino_encoder import open_openvino

if TYPE_CHECKING:
    from model.network import Encoder

_SUFFIX = ".tflite"
_OPEN = {"litert": open_litert, "openvino": open_openvino}


def open_encoder(
    engine: str, build: Callable[[], Encoder], input_size: int, checksum: str, log: Callable[[str], None]
) -> EncoderPool | None:
    """The encoder in the engine that `engine` selects on this machine; None for TensorFlow's graph.

    Args:
      engine: one of `model.engine_choice.ENGINES`; "auto" is LiteRT, or TensorFlow if there is a GPU or, which is
        logged, if LiteRT cannot run the encoder.
      build: makes the Keras layer; called only if the cache lacks its conversion.
      input_size: S, the side of its images in pixels.
      checksum: identifies the bundle.
      log: receives one-line messages.

    Raises:
      EngineError: `engine` is one of `CPU_ENGINES` and cannot run the encoder.
    """
    if engine == "tensorflow" or (engine == "auto" and open_gpus()):
        return None
    chosen = engine if engine in CPU_ENGINES else "litert"
    try:
        check_installed(chosen)
        return _open_cached(_OPEN[chosen], build, input_size, checksum, log)
    except EngineError as error:
        if engine == chosen:
            raise unavailable(engine, error) from error
        log(f"the encoder runs in TensorFlow, which takes two to five times the CPU time: {error}")
        return None


def _open_cached(
    open_file: Callable[[bytes], EncoderPool],
    build: Callable[[], Encoder],
    input_size: int,
    checksum: str,
    log: Callable[[str], None],
) -> EncoderPool:
    """The encoder by `open_file`, converted unless the cache has it."""
    key = _cache_key(checksum)
    not_cached = ""
    try:
        if content := file_cache.get(key, _SUFFIX):
            return open_file(content)
    except OSError as error:
        not_cached = str(error)
    from model.litert_converter import check_features, convert_encoder

    encoder = build()
    started = time.monotonic()
    content = convert_encoder(encoder, input_size, encoder.int8)
    check_features(encoder, open_litert(content), input_size)
    converted = open_file(content)
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
