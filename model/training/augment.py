"""Photographs that look different each time they are learnt from."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

SMALLEST_CROP = 0.75  # of a side
_LIGHT = 0.2  # the most by which a channel is made brighter or darker
_SHIFT = 20.0  # the most that is added to a channel, of 255


def changed(
    images: npt.NDArray[np.uint8], size: int, rng: np.random.Generator, smallest_crop: float = SMALLEST_CROP
) -> npt.NDArray[np.uint8]:
    """A part of each photograph, perhaps in a mirror and in other light: uint8[B, S', S', 3] -> uint8[B, S, S, 3].

    The part has its own height and width, so proportions change a little, as they do when a photograph is made square.

    Args:
      images: a little larger than S.
      size: S.
      rng: all the chance there is.
      smallest_crop: of a side of the photograph, 0 to 1. What is cropped looks larger than it will when it is captioned
        whole: H. Touvron et al. (2019), "Fixing the train-test resolution discrepancy".
    """
    count = len(images)
    sides = rng.uniform(smallest_crop, 1.0, (count, 2))
    corners = rng.uniform(0.0, 1.0, (count, 2)) * (1.0 - sides)
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    mirrored = rng.random(count) < 0.5
    boxes[mirrored] = boxes[mirrored][:, [0, 3, 2, 1]]
    gains = rng.uniform(1 - _LIGHT, 1 + _LIGHT, (count, 1)) * rng.uniform(1 - _LIGHT / 4, 1 + _LIGHT / 4, (count, 3))
    offsets = rng.uniform(-_SHIFT, _SHIFT, (count, 1)) + np.zeros((count, 3))
    given = (images, boxes, gains.astype(np.float32), offsets.astype(np.float32))
    return _change(*map(tf.convert_to_tensor, given), size).numpy()


def _change_in_graph(images: Any, boxes: Any, gains: Any, offsets: Any, size: int) -> Any:
    parts = tf.image.crop_and_resize(tf.cast(images, tf.float32), boxes, tf.range(tf.shape(images)[0]), (size, size))
    lit = parts * gains[:, None, None, :] + offsets[:, None, None, :]
    return tf.cast(tf.clip_by_value(tf.round(lit), 0.0, 255.0), tf.uint8)


_change = tf.function(_change_in_graph, autograph=False, reduce_retracing=True)
