"""The choice of what runs the encoder, TensorFlow or LiteRT, and of its precision.

Captions do not depend on the choice, except for rounding. Importing this module does not import TensorFlow.
"""

from __future__ import annotations

import argparse
import importlib.util

from model.devices import has_tensor_cores

ENGINES = ("auto", "tensorflow", "litert")
# bfloat16 is not offered: it changes 232 of 1,000 captions, float16 changes 30 (CIDEr 46.7 and 46.4; float32 46.5).
PRECISIONS = ("auto", "float32", "float16")


class EngineError(RuntimeError):
    """The requested engine cannot run the encoder here; the message says why and what to do."""


def add_engine_options(group: argparse._ArgumentGroup) -> None:
    """Adds `--engine` and `--precision`."""
    group.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="what runs the model: litert (with NumPy for the decoder) takes half the CPU time of tensorflow, and a "
        "fifth with 8-bit models; auto is litert if it is available and there is no GPU, otherwise tensorflow "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="precision of TensorFlow's encoder; auto is float16 on a GPU with tensor cores, otherwise float32 "
        "(default: %(default)s)",
    )


def check_engine(engine: str) -> None:
    """Raises EngineError if `engine` is "litert" and its package is missing; does not import TensorFlow."""
    if engine == "litert":
        try:
            check_litert_installed()
        except EngineError as error:
            raise litert_unavailable(error) from error


def check_litert_installed() -> None:
    """Raises EngineError if the package ai-edge-litert is missing."""
    if importlib.util.find_spec("ai_edge_litert") is None:
        raise EngineError("LiteRT is not installed (pip install ai-edge-litert)")


def litert_unavailable(reason: EngineError) -> EngineError:
    """The error for a user who asked for `--engine=litert`."""
    return EngineError(f"--engine=litert: {reason}; use --engine=auto to fall back to TensorFlow")


def check_precision(engine: str, precision: str) -> None:
    """Checks the two options; does not import TensorFlow.

    Raises:
      ValueError: one of them is unknown, or they exclude each other.
    """
    if engine not in ENGINES:
        raise ValueError(f"--engine must be one of {', '.join(ENGINES)}, not {engine!r}")
    if precision not in PRECISIONS:
        raise ValueError(f"--precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    if engine == "litert" and precision == "float16":
        raise ValueError("--engine=litert computes in float32; leave out --precision=float16 or choose another engine")


def choose_precision(engine: str, precision: str) -> str:
    """The encoder's precision on this machine: "float32" or "float16".

    Raises:
      ValueError: as `check_precision` does.
    """
    check_precision(engine, precision)
    if precision != "auto":
        return precision
    return "float16" if engine != "litert" and has_tensor_cores() else "float32"


def one_line(error: BaseException) -> str:
    """The error's text, shortened to one line."""
    return " ".join(str(error).split())[:200]
