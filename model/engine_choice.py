"""Chooses the engine that runs the encoder (TensorFlow, LiteRT or OpenVINO) and its precision.

Captions do not depend on the choice, except for rounding. Importing this module does not import TensorFlow.
"""

from __future__ import annotations

import argparse
import importlib.util

from model.devices import has_tensor_cores

CPU_ENGINES = ("litert", "openvino")
ENGINES = ("auto", "tensorflow", *CPU_ENGINES)
# bfloat16 is not offered: it changes 232 of 1,000 captions, float16 changes 30 (CIDEr 46.7 and 46.4; float32 46.5).
PRECISIONS = ("auto", "float32", "float16")


# of each of CPU_ENGINES: its name, its module, and what pip installs
_PACKAGES = {
    "litert": ("LiteRT", "ai_edge_litert", "ai-edge-litert"),
    "openvino": ("OpenVINO", "openvino", "'caption-images[openvino]'"),
}


class EngineError(RuntimeError):
    """The requested engine cannot run the encoder here; the message says why and what to do."""


def add_engine_options(group: argparse._ArgumentGroup) -> None:
    """Adds `--engine` and `--precision`."""
    group.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="engine that runs the model: litert (with NumPy for the decoder) takes half the CPU time of tensorflow, "
        "with 8-bit models a fifth; openvino is faster still on a CPU without VNNI, but a quarter of the captions "
        "differ; auto is litert if it is available and there is no GPU, otherwise tensorflow (default: %(default)s)",
    )
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="precision of TensorFlow's encoder; auto is float16 on a GPU with tensor cores, otherwise float32 "
        "(default: %(default)s)",
    )


def check_engine(engine: str) -> None:
    """Raises EngineError if `engine` is one of `CPU_ENGINES` whose package is missing; does not import TensorFlow."""
    if engine in CPU_ENGINES:
        try:
            check_installed(engine)
        except EngineError as error:
            raise unavailable(engine, error) from error


def check_installed(engine: str) -> None:
    """Raises EngineError if the package of one of `CPU_ENGINES` is missing."""
    name, module, package = _PACKAGES[engine]
    if importlib.util.find_spec(module) is None:
        raise EngineError(f"{name} is not installed (pip install {package})")


def unavailable(engine: str, reason: EngineError) -> EngineError:
    """The error for a user who asked for one of `CPU_ENGINES`."""
    return EngineError(f"--engine={engine}: {reason}; --engine=auto uses what is available")


def check_precision(engine: str, precision: str) -> None:
    """Checks the two options; does not import TensorFlow.

    Raises:
      ValueError: one of them is unknown, or they exclude each other.
    """
    if engine not in ENGINES:
        raise ValueError(f"--engine must be one of {', '.join(ENGINES)}, not {engine!r}")
    if precision not in PRECISIONS:
        raise ValueError(f"--precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    if engine in CPU_ENGINES and precision == "float16":
        raise ValueError(
            f"--engine={engine} computes in float32; leave out --precision=float16 or choose another engine"
        )


def choose_precision(engine: str, precision: str) -> str:
    """The encoder's precision on this machine: "float32" or "float16".

    Raises:
      ValueError: as `check_precision` does.
    """
    check_precision(engine, precision)
    if precision != "auto":
        return precision
    return "float16" if engine not in CPU_ENGINES and has_tensor_cores() else "float32"


def one_line(error: BaseException) -> str:
    """The error's text, shortened to one line."""
    return " ".join(str(error).split())[:200]
