"""Which engine runs the encoder, TensorFlow's graph or LiteRT on the CPU, and in which precision.

The captions are the same but for rounding.

TensorFlow is imported where a function needs it, not with this module.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING

from model.devices import has_tensor_cores, open_gpus

if TYPE_CHECKING:
    from model.litert_encoder import LiteRtEncoder
    from model.network import Encoder

ENGINES = ("auto", "tensorflow", "litert")
# Not bfloat16: of 1,000 captions it changes 232, float16 30 (CIDEr 46.7, 46.4; float32 46.5).
PRECISIONS = ("auto", "float32", "float16")


class EngineError(RuntimeError):
    """The engine that was asked for cannot serve; the message says why, and what to do."""


def add_engine_options(group: argparse._ArgumentGroup) -> None:
    """Adds `--engine` and `--precision`."""
    group.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="what runs the encoder: tensorflow; litert, for the CPU, in half the time of tensorflow, or a fifth for "
        "8-bit models; or auto, which is litert if it is installed and there is no GPU (default: %(default)s)",
    )
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="number format of TensorFlow's encoder; auto is float16 on a GPU with tensor cores, otherwise float32 "
        "(default: %(default)s)",
    )


def check_engine(engine: str) -> None:
    """Raises EngineError where `engine` is litert and the package is missing; imports no TensorFlow."""
    if engine == "litert" and not _is_installed():
        raise _cannot_serve(_not_installed())


def check_precision(engine: str, precision: str) -> None:
    """Raises ValueError where one of them is unknown, or they contradict each other; imports no TensorFlow."""
    if engine not in ENGINES:
        raise ValueError(f"--engine must be one of {', '.join(ENGINES)}, not {engine!r}")
    if precision not in PRECISIONS:
        raise ValueError(f"--precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    if engine == "litert" and precision == "float16":
        raise ValueError("--engine=litert computes in float32; leave out --precision=float16, or take another engine")


def choose_precision(engine: str, precision: str) -> str:
    """What the encoder is to compute in on this machine: "float32" or "float16".

    Raises:
      ValueError: as `check_precision`.
    """
    check_precision(engine, precision)
    if precision != "auto":
        return precision
    return "float16" if engine != "litert" and has_tensor_cores() else "float32"


def _is_installed() -> bool:
    return importlib.util.find_spec("ai_edge_litert") is not None


def _not_installed() -> EngineError:
    return EngineError("LiteRT is not installed (pip install ai-edge-litert)")


def _cannot_serve(why: EngineError) -> EngineError:
    return EngineError(f"--engine=litert: {why}; --engine=auto goes without it")


def open_engine(
    engine: str, encoder: Encoder, size: int, checksum: str, tell: Callable[[str], None]
) -> LiteRtEncoder | None:
    """The encoder of the engine that `engine` means on this machine; None for TensorFlow's own graph.

    Args:
      engine: one of `ENGINES`; auto does without LiteRT where it cannot serve, and says so.
      encoder: the Keras layer.
      size: S, side of its images in pixels.
      checksum: of the bundle.
      tell: takes a line for people.

    Raises:
      EngineError: LiteRT was asked for and cannot serve.
    """
    if engine == "tensorflow" or (engine == "auto" and open_gpus()):
        return None
    try:
        if not _is_installed():
            raise _not_installed()
        from model.litert_encoder import open_litert_encoder

        return open_litert_encoder(encoder, size, checksum, tell)
    except EngineError as error:
        if engine == "litert":
            raise _cannot_serve(error) from error
        tell(f"TensorFlow runs the encoder, in two to five times the CPU time: {error}")
        return None
