"""Random augmentation of training images: crops, mirroring and brightness."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from model.training.train_options import SMALLEST_CROP

_GAIN = 0.2  # largest relative change of brightness
_OFFSET = 20.0  # largest value added to all channels, which reach 255


def augment(
    images: npt.NDArray[np.uint8], size: int, rng: np.random.Generator, smallest_crop: float = SMALLEST_CROP
) -> npt.NDArray[np.uint8]:
    """Crops, mirrors and relights each image at random: uint8[B, S', S', 3] -> uint8[B, S, S, 3].

    The height and the width of a crop are drawn independently, so proportions change a little, as they do when an image
    is scaled to a square.

    Args:
      images: with S' a little larger than S.
      size: S, in pixels.
      rng: the only source of randomness.
      smallest_crop: of the image's side, 0 to 1. Objects look larger in a crop than in the whole image that is
        captioned later: H. Touvron et al. (2019), "Fixing the train-test resolution discrepancy".
    """
    count = len(images)
    sides = rng.uniform(smallest_crop, 1.0, (count, 2))
    corners = rng.uniform(0.0, 1.0, (count, 2)) * (1.0 - sides)
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    mirrored = rng.random(count) < 0.5
    boxes[mirrored] = boxes[mirrored][:, [0, 3, 2, 1]]
    gains = rng.uniform(1 - _GAIN, 1 + _GAIN, (count, 1)) * rng.uniform(1 - _GAIN / 4, 1 + _GAIN / 4, (count, 3))
    offsets = rng.uniform(-_OFFSET, _OFFSET, (count, 1)) + np.zeros((count, 3))
    arrays = (images, boxes, gains.astype(np.float32), offsets.astype(np.float32))
    return _augment(*map(tf.convert_to_tensor, arrays), size).numpy()


def _augment_in_graph(images: Any, boxes: Any, gains: Any, offsets: Any, size: int) -> Any:
    crops = tf.image.crop_and_resize(tf.cast(images, tf.float32), boxes, tf.range(tf.shape(images)[0]), (size, size))
    relit = crops * gains[:, None, None, :] + offsets[:, None, None, :]
    return tf.cast(tf.clip_by_value(tf.round(relit), 0.0, 255.0), tf.uint8)


_augment = tf.function(_augment_in_graph, autograph=False, reduce_retracing=True)
