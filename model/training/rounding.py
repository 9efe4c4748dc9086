"""Rounds the weights of an 8-bit backbone so that its features change as little as possible.

Weights are rounded one input after the other, and the error of each is made up for by the weights that are not rounded
yet, weighted by how the inputs of the layer occur together (E. Frantar et al. 2023, "GPTQ: Accurate Post-Training
Quantization for Generative Pre-trained Transformers", section 3).

All weights but the largest of each channel become even. Halved, they have 7 bits: CPUs without VNNI add the products of
two inputs in 16 bits, which 8-bit weights overflow. LiteRT avoids that instruction; OpenVINO uses it, and is faster.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from model.int8_layers import LARGEST_WEIGHT, Int8Convolution
from model.network import Encoder

Doubles = npt.NDArray[np.float64]
_BATCH = 16
_POSITIONS = 256  # of each image and layer
_DAMPING = 0.01  # section 3.3 of the paper: a share of the mean diagonal, since inputs may be dependent


def round_backbone(encoder: Encoder, images: npt.NDArray[np.uint8]) -> None:
    """Rounds the kernels of an 8-bit backbone, which may be any numbers from -127 to 127, in place.

    Args:
      encoder: with an 8-bit backbone.
      images: uint8[N, S, S, 3], to observe the inputs of its layers.
    """
    layers = [layer for layer in encoder.backbone.layers if isinstance(layer, Int8Convolution)]
    products = _input_products(encoder, [layer for layer in layers if not layer.depthwise], images)
    for layer in layers:
        kernel = np.asarray(layer.kernel, np.float64)
        if layer.depthwise:  # OpenVINO computes these in floating point
            rounded = np.round(kernel)
        else:
            rounded = round_weights(kernel.reshape(-1, kernel.shape[-1]), products[layer.name]).reshape(kernel.shape)
        layer.kernel.assign(rounded + 0.0)  # removes negative zeros, which blending would turn into zeros


def round_weights(weights: Doubles, products: Doubles) -> Doubles:
    """Rounds weights to even integers, except those of magnitude 127.

    Args:
      weights: float64[N, F], from -127 to 127.
      products: float64[N, N], the mean products of pairs of the N inputs.

    Returns:
      integers, float64[N, F].
    """
    inputs = len(weights)
    largest = np.abs(np.round(weights)) == LARGEST_WEIGHT  # LiteRT's converter derives a channel's step from it
    damped = products + np.eye(inputs) * max(_DAMPING * np.trace(products) / inputs, 1e-12)
    spread = np.linalg.cholesky(np.linalg.inv(damped)).T
    left, rounded = weights.copy(), np.empty_like(weights)
    for number in range(inputs):
        even = np.clip(2 * np.round(left[number] / 2), 1 - LARGEST_WEIGHT, LARGEST_WEIGHT - 1)
        rounded[number] = np.where(largest[number], np.round(weights[number]), even)
        error = (left[number] - rounded[number]) / spread[number, number]
        left[number + 1 :] -= np.outer(spread[number, number + 1 :], error)
    return rounded


def _input_products(
    encoder: Encoder, layers: list[Int8Convolution], images: npt.NDArray[np.uint8]
) -> dict[str, Doubles]:
    """The mean products of the inputs of convolutions, float64[h w C, h w C] by the name of the layer."""
    watched = keras.Model(encoder.backbone.input, {layer.name: layer.input[0] for layer in layers})
    compute = tf.function(lambda batch: watched(encoder.rescale(batch)), autograph=False)
    rng = np.random.default_rng(0)
    products: dict[str, Any] = dict.fromkeys((layer.name for layer in layers), 0.0)
    for start in range(0, len(images), _BATCH):
        found = compute(images[start : start + _BATCH])
        for layer in layers:
            height, width = layer.kernel.shape[:2]
            size, strides = (1, height, width, 1), (1, layer.stride, layer.stride, 1)
            patches = tf.image.extract_patches(found[layer.name], size, strides, (1, 1, 1, 1), "SAME")
            rows = np.asarray(patches, np.float64).reshape(-1, patches.shape[-1])
            rows = rows[rng.integers(len(rows), size=_POSITIONS * len(patches))]
            products[layer.name] += rows.T @ rows / (_POSITIONS * len(images))
    return products
