"""Converts the Keras encoder to LiteRT. Importing this module imports TensorFlow.

Batch normalization is folded into the convolutions. The result never comes from a bundle: a .tflite file is a program
for an interpreter.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from model.engine_choice import EngineError, one_line
from model.int8_layers import values_for_the_converter

Images = npt.NDArray[np.uint8]
# Relative to the largest feature. The sums differ only in their order, which accounts for 1e-5.
_TOLERANCE = 1e-3


def convert_encoder(encode: Callable[[Any], Any], input_size: int, int8: bool) -> bytes:
    """Converts an encoder, or a part of one, to a .tflite file.

    Args:
      encode: uint8[1, S, S, 3] -> float32[1, L, ...].
      input_size: S.
      int8: whether it has layers of `model.int8_layers`.

    Raises:
      EngineError: the converter does not support the encoder.
    """
    images = tf.TensorSpec((1, input_size, input_size, 3), tf.uint8)
    graph = tf.function(lambda given: encode(given), input_signature=[images], autograph=False)
    try:
        # Without `trackable_obj`, with which the converter omits Keras's variables instead of freezing them.
        with values_for_the_converter():
            converter = tf.lite.TFLiteConverter.from_concrete_functions([graph.get_concrete_function()])
        if int8:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]  # integers wherever the graph has their ranges
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Statistics for quantized inputs were expected")  # the graph has them
            return converter.convert()
    except Exception as error:  # the converter raises many types for layers that it does not support
        raise EngineError(f"the encoder cannot be converted for LiteRT: {one_line(error)}") from error


def check_features(
    encoder: Callable[[Any], Any], converted: Callable[[Images], npt.NDArray[np.float32]], input_size: int
) -> None:
    """Compares features of noise: after a wrong conversion, captions would be fluent and describe something else.

    Raises:
      EngineError: they differ by more than rounding.
    """
    noise = np.random.default_rng(0).integers(0, 256, (1, input_size, input_size, 3), np.uint8)
    features = converted(noise)
    expected = np.asarray(encoder(noise))
    largest = float(np.abs(expected).max())
    if not np.allclose(features, expected, rtol=0.0, atol=_TOLERANCE * largest, equal_nan=True):
        difference = float(np.abs(features - expected).max())
        raise EngineError(
            f"LiteRT's features differ from TensorFlow's by {difference:.3g}, with values up to {largest:.3g}"
        )
