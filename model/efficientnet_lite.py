"""EfficientNet-Lite, which Keras lacks: EfficientNet without squeeze-and-excitation, with ReLU6.

Source: M. Tan and Q. Le (2019), "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", table 1
and section 3.3; the changes of Lite (fixed stem and head, no squeeze-and-excitation, ReLU6) follow `efficientnet/lite`
of the TensorFlow TPU models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers, ops

from model.int8_layers import Int8Convolution, Int8Range, Int8Values

Tensor = Any


@dataclass(frozen=True)
class Stage:
    """A row of table 1: `repeats` inverted bottlenecks, the first of which has `stride`."""

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
NORM_EPSILON = 1e-3


def efficientnet_lite(input_size: int, width: float, depth: float, name: str, int8: bool = False) -> keras.Model:
    """The network up to the last 1x1 convolution: float32[B, S, S, 3] -> float32[B, S/32, S/32, 1280].

    Args:
      input_size: S, in pixels; 224 for Lite0, 260 for Lite2.
      width: factor for the filters of each stage (1.0 for Lite0, 1.1 for Lite2).
      depth: factor for the repeats of all stages except the first and the last (1.0 for Lite0, 1.2 for Lite2).
      name: of the Keras model.
      int8: use the layers of `model.int8_layers`, with batch normalization folded into the convolutions.
    """
    images = keras.Input((input_size, input_size, 3))
    parts = _Int8() if int8 else _Float32()
    x = parts.convolution(parts.begin(images), STEM_FILTERS, kernel=3, stride=2, name="stem")
    channels = STEM_FILTERS
    for number, stage in enumerate(STAGES):
        fixed = number in (0, len(STAGES) - 1)
        filters = _round_filters(stage.filters * width)
        parts.begin_stage(f"stage{number}")
        for repeat in range(stage.repeats if fixed else math.ceil(depth * stage.repeats)):
            stride = stage.stride if repeat == 0 else 1
            x = _bottleneck(parts, x, stage, channels, filters, stride, f"stage{number}_{repeat}")
            channels = filters
    x = parts.convolution(x, HEAD_FILTERS, kernel=1, stride=1, name="head")
    return keras.Model(images, parts.end(x), name=name)


def _round_filters(filters: float, divisor: int = 8) -> int:
    rounded = max(divisor, int(filters + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * filters else rounded


def _bottleneck(
    parts: _Float32 | _Int8, inputs: Tensor, stage: Stage, channels: int, filters: int, stride: int, name: str
) -> Tensor:
    x = inputs
    if stage.expansion > 1:
        x = parts.convolution(x, channels * stage.expansion, kernel=1, stride=1, name=f"{name}_expand")
    x = parts.convolution(x, None, kernel=stage.kernel, stride=stride, name=f"{name}_depthwise")
    x = parts.projection(x, filters, name=f"{name}_project")
    return parts.add(x, inputs, name=f"{name}_add") if stride == 1 and channels == filters else x


class _Float32:
    """Convolutions without bias, batch normalization, ReLU6."""

    def begin(self, images: Tensor) -> Tensor:
        return images

    def begin_stage(self, name: str) -> None:
        """Does nothing: the layers of a stage share nothing."""

    def convolution(self, x: Tensor, filters: int | None, kernel: int, stride: int, name: str) -> Tensor:
        """A convolution with ReLU6; depthwise if `filters` is None."""
        if filters is None:
            x = layers.DepthwiseConv2D(kernel, stride, padding="same", use_bias=False, name=name)(x)
        else:
            x = layers.Conv2D(filters, kernel, stride, padding="same", use_bias=False, name=name)(x)
        return layers.ReLU(6.0, name=f"{name}_relu")(self._norm(x, name))

    def projection(self, x: Tensor, filters: int, name: str) -> Tensor:
        """A 1x1 convolution without ReLU6."""
        return self._norm(layers.Conv2D(filters, 1, use_bias=False, name=name)(x), name)

    def add(self, x: Tensor, y: Tensor, name: str) -> Tensor:
        return layers.Add(name=name)([x, y])

    def end(self, x: Tensor) -> Tensor:
        return x

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return layers.BatchNormalization(epsilon=NORM_EPSILON, name=f"{name}_norm")(x)


class _Int8:
    """The same layers in 8 bits, with folded normalization; a tensor is a pair of integers and their step."""

    def begin(self, images: Tensor) -> Tensor:
        # Inputs are (pixel - 127) / 128, so the 256 values represent every pixel exactly.
        return Int8Range("images_range", step=1 / 128, zero=127)(images, ops.ones(()))

    def begin_stage(self, name: str) -> None:
        # All summands of a stage have one range, since sums of integers with the same step are exact in every engine.
        self._range = Int8Range(f"{name}_range")

    def convolution(self, x: Tensor, filters: int | None, kernel: int, stride: int, name: str) -> Tensor:
        return Int8Range(f"{name}_range", zero=0)(*Int8Convolution(filters, kernel, stride, name=name)(*x))

    def projection(self, x: Tensor, filters: int, name: str) -> Tensor:
        return self._range(*Int8Convolution(filters, 1, 1, name=name)(*x))

    def add(self, x: Tensor, y: Tensor, name: str) -> Tensor:
        (numbers, step), (others, _) = x, y
        return self._range(layers.Add(name=name)([numbers, others]), step)

    def end(self, x: Tensor) -> Tensor:
        return Int8Values("values")(*x)
