"""The backbone's features of a whole data set, computed once and kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from model.data import Example
from model.network import Encoder
from model.preprocessing import load_image, pad_batch

Features = npt.NDArray[np.float16]
_BATCH = 32


def cached_features(
    encoder: Encoder, size: int, examples: Sequence[Example], path: Path, key: str, flips: bool
) -> Features:
    """The backbone's features of all photographs.

    Args:
      encoder: whose grid to take.
      size: S, side of its input.
      examples: N photographs.
      path: without suffix; a .key beside the .npy tells whether they are of the same photographs and backbone.
      key: tells the backbone and its weights.
      flips: also those of the photograph seen in a mirror.

    Returns:
      float16[N, F, L, C], F 2 with flips, else 1; mapped, not read.
    """
    names = "\n".join(example.image_id for example in examples)
    key = hashlib.sha256(f"{key} {flips}\n{names}".encode()).hexdigest()
    array, stamp = path.with_suffix(".npy"), path.with_suffix(".key")
    if not (stamp.exists() and stamp.read_text() == key):
        stamp.unlink(missing_ok=True)
        _compute(encoder, size, examples, array, 2 if flips else 1)
        stamp.write_text(key)
    return np.load(array, mmap_mode="r")


def _compute(encoder: Encoder, size: int, examples: Sequence[Example], array: Path, views: int) -> None:
    _, height, width, channels = encoder.backbone.output_shape
    shape = (len(examples), views, height * width, channels)
    features = np.lib.format.open_memmap(array, mode="w+", dtype=np.float16, shape=shape)
    grid = tf.function(encoder.grid, autograph=False)
    for start in range(0, len(examples), _BATCH):
        chunk = examples[start : start + _BATCH]
        images = pad_batch([load_image(example.read(), size).pixels for example in chunk], _BATCH)
        for view in range(views):
            seen = images[:, :, ::-1] if view else images
            features[start : start + len(chunk), view] = grid(tf.constant(seen)).numpy()[: len(chunk)]
        if start // _BATCH % 20 == 0:
            print(f"features for {array.name}: {start:,} of {len(examples):,} photographs", flush=True)
    features.flush()
