"""EfficientNet-Lite, which Keras does not ship: EfficientNet without squeeze-and-excitation, with ReLU6.

Source: M. Tan and Q. Le (2019), "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", table 1
and section 3.3; the Lite changes (fixed stem and head, no squeeze-and-excitation, ReLU6) are those of the TensorFlow
TPU models' `efficientnet/lite`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers

Tensor = Any


@dataclass(frozen=True)
class Stage:
    """A row of table 1: `repeats` inverted bottlenecks of which the first has `stride`."""

    kernel: int
    repeats: int
    filters: int
    expansion: int
    stride: int


STAGES = (
    Stage(kernel=3, repeats=1, filters=16, expansion=1, stride=1),
    Stage(kernel=3, repeats=2, filters=24, expansion=6, stride=2),
    Stage(kernel=5, repeats=2, filters=40, expansion=6, stride=2),
    Stage(kernel=3, repeats=3, filters=80, expansion=6, stride=2),
    Stage(kernel=5, repeats=3, filters=112, expansion=6, stride=1),
    Stage(kernel=5, repeats=4, filters=192, expansion=6, stride=2),
    Stage(kernel=3, repeats=1, filters=320, expansion=6, stride=1),
)
STEM_FILTERS = 32
HEAD_FILTERS = 1280


def efficientnet_lite(input_size: int, width: float, depth: float, name: str) -> keras.Model:
    """The network up to the last 1x1 convolution: float32[B, S, S, 3] -> float32[B, S/32, S/32, 1280].

    Args:
      input_size: S, pixels a side; 224 for Lite0, 260 for Lite2.
      width: factor on the filters of each stage (1.0 for Lite0, 1.1 for Lite2).
      depth: factor on the repeats of all stages but the first and the last.
      name: of the Keras model.
    """
    images = keras.Input((input_size, input_size, 3))
    x = _convolution(images, STEM_FILTERS, kernel=3, stride=2, name="stem")
    for number, stage in enumerate(STAGES):
        fixed = number in (0, len(STAGES) - 1)
        repeats = stage.repeats if fixed else math.ceil(depth * stage.repeats)
        for repeat in range(repeats):
            stride = stage.stride if repeat == 0 else 1
            x = _bottleneck(x, stage, _round_filters(stage.filters * width), stride, f"stage{number}_{repeat}")
    x = _convolution(x, HEAD_FILTERS, kernel=1, stride=1, name="head")
    return keras.Model(images, x, name=name)


def _round_filters(filters: float, divisor: int = 8) -> int:
    rounded = max(divisor, int(filters + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * filters else rounded


def _bottleneck(x: Tensor, stage: Stage, filters: int, stride: int, name: str) -> Tensor:
    inputs, channels = x, x.shape[-1]
    if stage.expansion > 1:
        x = _convolution(x, channels * stage.expansion, kernel=1, stride=1, name=f"{name}_expand")
    x = layers.DepthwiseConv2D(stage.kernel, stride, padding="same", use_bias=False, name=f"{name}_depthwise")(x)
    x = layers.ReLU(6.0, name=f"{name}_depthwise_relu")(_batch_norm(x, f"{name}_depthwise"))
    x = _convolution(x, filters, kernel=1, stride=1, name=f"{name}_project", activate=False)
    return layers.Add(name=f"{name}_add")([x, inputs]) if stride == 1 and channels == filters else x


def _convolution(x: Tensor, filters: int, kernel: int, stride: int, name: str, activate: bool = True) -> Tensor:
    x = layers.Conv2D(filters, kernel, stride, padding="same", use_bias=False, name=name)(x)
    x = _batch_norm(x, name)
    return layers.ReLU(6.0, name=f"{name}_relu")(x) if activate else x


def _batch_norm(x: Tensor, name: str) -> Tensor:
    return layers.BatchNormalization(epsilon=1e-3, name=f"{name}_norm")(x)
