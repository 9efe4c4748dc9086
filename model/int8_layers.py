"""Layers that compute with 8-bit integers, stored as floating-point numbers, which TensorFlow adds exactly.

A tensor here is a pair of integers and a step; its values are their product. A convolution multiplies and adds
integers, and a range rounds the sums to 256 multiples of its own step. Both follow XNNPACK, so LiteRT's 8-bit
instructions compute the same features to the last bit, in less than half the time of floating point on a CPU with VNNI.

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
STEPS = 255  # from the lowest to the highest value of a range
_AS_VALUES = contextvars.ContextVar("as values", default=False)


@contextlib.contextmanager
def values_for_the_converter() -> Iterator[None]:
    """Makes layers compute values instead of integers, with ranges in the form that LiteRT's converter needs.

    The converter quantizes a graph that is traced in this context itself.
    """
    before = _AS_VALUES.set(True)
    try:
        yield
    finally:
        _AS_VALUES.reset(before)


class Int8Range(layers.Layer):
    """Rounds to one of 256 values: integers float32[..., C], step float32[C] or [] -> integers, step float32[].

    The result's integers are from -`zero` to 255 - `zero`. A range from 0 to 6 is also a ReLU6.

    Args:
      name: the layer's name.
      step: initial step between two values; it has few bits, so that products of steps are exact.
      zero: initial number of values below 0.
    """

    def __init__(self, name: str, step: float = 2.0**-5, zero: int = 128) -> None:
        super().__init__(name=name, dtype="float32")
        self.step = self.add_weight(shape=(), initializer=_constant(step), trainable=False, name="step")
        self.zero = self.add_weight(shape=(), initializer=_constant(zero), trainable=False, name="zero")

    def call(self, numbers: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        new_step, low, high = ops.convert_to_tensor(self.step), -self.zero, STEPS - self.zero
        if _AS_VALUES.get():
            return tf.quantization.fake_quant_with_min_max_vars(numbers, low * new_step, high * new_step), new_step
        return ops.round(ops.clip(numbers * (step / new_step), low, high)), new_step


class Int8Convolution(layers.Layer):
    """A convolution: integers float32[B, H, W, C], step float32[] -> integers float32[B, H', W', F], step float32[F].

    Args:
      filters: F; None for a depthwise convolution with one filter for each channel.
      kernel_size: side of the kernel.
      stride: in both directions.
      name: the layer's name.

    Attributes:
      kernel: integers from -127 to 127; float32[h, w, C, F], or float32[h, w, C, 1] if it is depthwise. See
        `model.training.rounding` for why most are even.
      step: float32[F], of the weights of each output channel.
      bias: float32[F], values, which are rounded to multiples of the sums' step.
    """

    def __init__(self, filters: int | None, kernel_size: int, stride: int, name: str) -> None:
        super().__init__(name=name, dtype="float32", trainable=False)
        self.depthwise = filters is None
        self._filters = filters
        self._kernel_size = kernel_size
        self.stride = stride

    def build(self, numbers_shape: Any, step_shape: Any) -> None:  # Keras matches these names to those of `call`
        channels = numbers_shape[-1]
        outputs = channels if self._filters is None else self._filters
        kernel = (self._kernel_size, self._kernel_size, channels, self._filters or 1)
        self.kernel = self.add_weight(shape=kernel, initializer=_random_integers, name="kernel")
        self.step = self.add_weight(shape=(outputs,), initializer=_constant(2.0**-10), name="step")
        self.bias = self.add_weight(shape=(outputs,), initializer="zeros", name="bias")

    def call(self, numbers: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        weight_step = ops.convert_to_tensor(self.step)
        sum_step = step * weight_step
        bias = ops.round(self.bias / sum_step)
        kernel = ops.convert_to_tensor(self.kernel)
        if _AS_VALUES.get():
            kernel *= weight_step[:, None] if self.depthwise else weight_step
            bias *= sum_step
        convolve = ops.depthwise_conv if self.depthwise else ops.conv
        return convolve(numbers, kernel, strides=self.stride, padding="same") + bias, sum_step


class Int8Values(layers.Layer):
    """The values of integers and their step: float32[..., C], float32[] -> float32[..., C]."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, dtype="float32")

    def call(self, numbers: Tensor, step: Tensor) -> Tensor:
        return numbers if _AS_VALUES.get() else numbers * step


def _constant(value: float) -> Any:
    return lambda shape, dtype=None: ops.full(shape, value, dtype)


def _random_integers(shape: tuple[int, ...], dtype: Any = None) -> Tensor:
    return ops.round(tf.random.uniform(shape, -LARGEST_WEIGHT, LARGEST_WEIGHT, dtype or "float32"))
