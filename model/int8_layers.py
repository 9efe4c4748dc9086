"""Layers that compute with 8-bit whole numbers, held in floating point, where TensorFlow adds them up exactly.

A tensor here is whole numbers and the step that each stands for: its value is their product. A convolution multiplies
and adds whole numbers, and a range rounds the sums to 256 steps of its own; with both done as XNNPACK does them, the
features that LiteRT computes with 8-bit instructions, in well under half the time of floating point on a CPU that has
VNNI, are those of TensorFlow's graph to the last bit.

Source: B. Jacob et al. (2018), "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", section 2; a step for each output channel: R. Krishnamoorthi (2018), "Quantizing deep convolutional networks
for efficient inference: A whitepaper", section 3.1.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from keras import layers, ops

Tensor = Any
LARGEST_WEIGHT = 127
STEPS = 255  # of a range, from its lowest to its highest value
_AS_VALUES = contextvars.ContextVar("as values", default=False)


@contextlib.contextmanager
def values_for_the_converter() -> Iterator[None]:
    """A graph traced in the block has each tensor's values in it, and the ranges as LiteRT's converter looks for them.

    The converter makes whole numbers of them itself.
    """
    before = _AS_VALUES.set(True)
    try:
        yield
    finally:
        _AS_VALUES.reset(before)


class Int8Range(layers.Layer):
    """Rounds to one of 256 values: numbers float32[..., C], step float32[C] or [] -> whole numbers, step float32[].

    The whole numbers are from -`zero` to 255 - `zero`. A range from 0 to 6 is a ReLU6 as well.

    Args:
      name: of the layer.
      step: between two values, to begin with; with few bits, so that products of steps are exact.
      zero: how many of the values are below 0, to begin with.
    """

    def __init__(self, name: str, step: float = 2.0**-5, zero: int = 128) -> None:
        super().__init__(name=name, dtype="float32")
        self.step = self.add_weight(shape=(), initializer=_constant(step), trainable=False, name="step")
        self.zero = self.add_weight(shape=(), initializer=_constant(zero), trainable=False, name="zero")

    def call(self, numbers: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        ours, low, high = ops.convert_to_tensor(self.step), -self.zero, STEPS - self.zero
        if _AS_VALUES.get():
            return tf.quantization.fake_quant_with_min_max_vars(numbers, low * ours, high * ours), ours
        return ops.round(ops.clip(numbers * (step / ours), low, high)), ours


class Int8Convolution(layers.Layer):
    """Whole numbers float32[B, H, W, C], step float32[] -> whole numbers float32[B, H', W', F], step float32[F].

    Args:
      filters: F; None for a depthwise convolution, with one filter for each channel.
      kernel_size: side of the kernel.
      stride: in both directions.
      name: of the layer.

    Attributes:
      kernel: whole numbers from -127 to 127; float32[h, w, C, F], or float32[h, w, C, 1] where it is depthwise.
      step: of the weights of each output channel.
      bias: as values, which are rounded to the steps of the sums.
    """

    def __init__(self, filters: int | None, kernel_size: int, stride: int, name: str) -> None:
        super().__init__(name=name, dtype="float32", trainable=False)
        self.depthwise = filters is None
        self._filters = filters
        self._kernel_size = kernel_size
        self._stride = stride

    def build(self, numbers_shape: Any, step_shape: Any) -> None:  # named so by Keras
        channels = numbers_shape[-1]
        outputs = channels if self._filters is None else self._filters
        kernel = (self._kernel_size, self._kernel_size, channels, self._filters or 1)
        self.kernel = self.add_weight(shape=kernel, initializer=_some_weights, name="kernel")
        self.step = self.add_weight(shape=(outputs,), initializer=_constant(2.0**-10), name="step")
        self.bias = self.add_weight(shape=(outputs,), initializer="zeros", name="bias")

    def call(self, numbers: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        of_weights = ops.convert_to_tensor(self.step)
        of_sums = step * of_weights
        bias = ops.round(self.bias / of_sums)
        kernel = ops.convert_to_tensor(self.kernel)
        if _AS_VALUES.get():
            kernel *= of_weights[:, None] if self.depthwise else of_weights
            bias *= of_sums
        convolve = ops.depthwise_conv if self.depthwise else ops.conv
        return convolve(numbers, kernel, strides=self._stride, padding="same") + bias, of_sums


class Int8Values(layers.Layer):
    """What whole numbers and their step stand for: float32[..., C], float32[] -> float32[..., C]."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, dtype="float32")

    def call(self, numbers: Tensor, step: Tensor) -> Tensor:
        return numbers if _AS_VALUES.get() else numbers * step


def _constant(value: float) -> Any:
    return lambda shape, dtype=None: ops.full(shape, value, dtype)


def _some_weights(shape: tuple[int, ...], dtype: Any = None) -> Tensor:
    return ops.round(tf.random.uniform(shape, -LARGEST_WEIGHT, LARGEST_WEIGHT, dtype or "float32"))
