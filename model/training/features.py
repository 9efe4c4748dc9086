"""The pictures of a whole data set and the backbone's features of them, made once and kept on disk."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from model.devices import open_gpus
from model.engine_choice import EngineError
from model.litert_encoder import LiteRtEncoder, converted
from model.network import Encoder
from model.preprocessing import load_image, pad_batch
from model.training.augment import SMALLEST_CROP, changed
from model.training.data import Example


@dataclass(frozen=True)
class Views:
    """How often, and in which parts, each photograph is looked at.

    Attributes:
      count: as it is, in a mirror, then changed by chance (`model.training.augment`).
      smallest_crop: see `changed`.
    """

    count: int
    smallest_crop: float = SMALLEST_CROP

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"views must be a whole number from 1, not {self.count}")


Features = npt.NDArray[np.float16]
Images = npt.NDArray[np.uint8]
_BATCH = 32
_MANY = 500  # pictures, for which it pays to convert the encoder


def cached_features(
    encoder: Encoder, size: int, examples: Sequence[Example], path: Path, key: str, views: Views
) -> Features:
    """The backbone's features of all photographs.

    Args:
      encoder: whose grid to take.
      size: S, side of its input.
      examples: N photographs.
      path: where to keep them, to which is added what tells the photographs, the backbone and the views.
      key: tells the backbone and its weights.
      views: F, of each photograph.

    Returns:
      float16[N, F, L, C]; mapped, not read.
    """
    _, height, width, channels = encoder.backbone.output_shape
    rng = np.random.default_rng(0)
    grid = functools.cache(lambda: _grid(encoder, size, len(examples) * views.count))

    def compute(chunk: Sequence[Example]) -> npt.NDArray[Any]:
        images = pad_batch(_pixels(chunk, size), _BATCH)
        seen = [images, images[:, :, ::-1]][: views.count]
        if views.count > len(seen):
            larger = pad_batch(_pixels(chunk, with_margin(size)), _BATCH)
            seen += [changed(larger, size, rng, views.smallest_crop) for _ in range(views.count - len(seen))]
        return np.stack([grid()(view)[: len(chunk)] for view in seen], axis=1)

    shape = (views.count, height * width, channels)
    return _cached(examples, path, f"features {key} {views}", np.float16, shape, compute)


def _grid(encoder: Encoder, size: int, pictures: int) -> Callable[[Images], npt.NDArray[Any]]:
    """`encoder.grid`; for many pictures on a CPU through LiteRT, in half of the time or less."""
    if pictures >= _MANY and encoder.compute_dtype == "float32" and not open_gpus():
        try:
            return LiteRtEncoder(converted(encoder.grid, size, encoder.int8))
        except EngineError as error:
            print(f"features are computed by TensorFlow, which is slower: {error}", flush=True)
    graph = tf.function(encoder.grid, autograph=False)
    return lambda images: graph(tf.constant(images)).numpy()


def cached_images(size: int, examples: Sequence[Example], path: Path) -> Images:
    """All photographs made square: uint8[N, S, S, 3]; mapped, not read. Arguments as of `cached_features`."""
    return _cached(
        examples, path, f"images {size}", np.uint8, (size, size, 3), lambda chunk: np.stack(_pixels(chunk, size))
    )


def with_margin(size: int) -> int:
    """The side of the pictures that `changed` crops to `size`."""
    return size * 8 // 7


def _pixels(chunk: Sequence[Example], size: int) -> list[Images]:
    return [load_image(example.read(), size).pixels for example in chunk]


def _cached(
    examples: Sequence[Example],
    path: Path,
    key: str,
    dtype: npt.DTypeLike,
    shape: tuple[int, ...],
    compute: Callable[[Sequence[Example]], npt.NDArray[Any]],
) -> npt.NDArray[Any]:
    """An array of N rows, computed unless there is one of the same key and photographs."""
    names = "\n".join(example.image_id for example in examples)
    key = hashlib.sha256(f"{key}\n{names}".encode()).hexdigest()
    file = path.with_name(f"{path.name}-{key[:16]}.npy")
    if not file.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        array = np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=(len(examples), *shape))
        for start in range(0, len(examples), _BATCH):
            chunk = examples[start : start + _BATCH]
            array[start : start + len(chunk)] = compute(chunk)
            if start // _BATCH % 20 == 0:
                print(f"{file.name}: {start:,} of {len(examples):,} photographs", flush=True)
        array.flush()
        partial.replace(file)
    return np.load(file, mmap_mode="r")
