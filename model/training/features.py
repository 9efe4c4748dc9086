"""The images of a data set and the backbone's features of them, computed once and cached on disk."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from model.devices import open_gpus
from model.engine_choice import EngineError
from model.litert_converter import convert_encoder
from model.litert_encoder import open_litert
from model.network import Encoder, named_backbone_variables
from model.preprocessing import pad_batch
from model.training.augment import augment
from model.training.data import Example, hash_images
from model.training.train_options import SMALLEST_CROP

Features = npt.NDArray[np.float16]
Images = npt.NDArray[np.uint8]
_BATCH = 32
_MIN_FOR_LITERT = 500  # images, from which on converting the encoder saves time
_FORMAT = 2  # of the cache; part of every key, so that files of other formats are never read


@dataclass(frozen=True)
class Views:
    """The views of each image: as it is, mirrored, then randomly augmented (`model.training.augment`).

    Attributes:
      count: number of views.
      smallest_crop: as in `augment`.
    """

    count: int
    smallest_crop: float = SMALLEST_CROP

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"views must be a whole number from 1, not {self.count}")


def cached_features(encoder: Encoder, examples: Sequence[Example], path: Path, views: Views) -> Features:
    """The backbone's features of all images.

    The cache is keyed by the images' bytes, the backbone's weights and precision, the input size and the views, so
    trainings can share a folder: what any of them would compute differently has another key.

    Args:
      encoder: its `grid` computes the features.
      examples: N images.
      path: prefix of the file; the key is appended.
      views: F for each image.

    Returns:
      float16[N, F, L, C], memory-mapped.

    Raises:
      ImageError: an image cannot be decoded.
      ValueError: the cached file is damaged.
      OSError: an image cannot be read, or the cache cannot be written.
    """
    _, size, _, _ = encoder.backbone.input_shape
    _, height, width, channels = encoder.backbone.output_shape
    rng = np.random.default_rng(0)
    grid = functools.cache(lambda: _grid_function(encoder, size, len(examples) * views.count))

    def compute(chunk: Sequence[Example]) -> npt.NDArray[Any]:
        images = pad_batch(_decode(chunk, size), _BATCH)
        seen = [images, images[:, :, ::-1]][: views.count]
        if views.count > len(seen):
            larger = pad_batch(_decode(chunk, size_with_margin(size)), _BATCH)
            seen += [augment(larger, size, rng, views.smallest_crop) for _ in range(views.count - len(seen))]
        return np.stack([grid()(view)[: len(chunk)] for view in seen], axis=1)

    shape = (len(examples), views.count, height * width, channels)
    key = f"features {_hash_backbone(encoder)} {encoder.compute_dtype} {size} {views}"
    return _cached(examples, path, key, np.dtype(np.float16), shape, compute)


def cached_images(size: int, examples: Sequence[Example], path: Path) -> Images:
    """All images, scaled to squares: uint8[N, S, S, 3], memory-mapped.

    Args:
      size: S, in pixels.
      examples: N images.
      path: prefix of the file; the key, which covers the images' bytes and the size, is appended.

    Raises:
      ImageError, ValueError, OSError: as `cached_features`.
    """
    shape = (len(examples), size, size, 3)

    def compute(chunk: Sequence[Example]) -> Images:
        return np.stack(_decode(chunk, size))

    return _cached(examples, path, f"images {size}", np.dtype(np.uint8), shape, compute)


def size_with_margin(size: int) -> int:
    """The side of the images from which `augment` crops images of `size`, in pixels."""
    return size * 8 // 7


def _grid_function(encoder: Encoder, size: int, images: int) -> Callable[[Images], npt.NDArray[Any]]:
    """`encoder.grid`; for many images on a CPU through LiteRT, which takes at most half the time."""
    if images >= _MIN_FOR_LITERT and encoder.compute_dtype == "float32" and not open_gpus():
        try:
            return open_litert(convert_encoder(encoder.grid, size, encoder.int8))
        except EngineError as error:
            print(f"features are computed by TensorFlow, which is slower: {error}", flush=True)
    graph = tf.function(encoder.grid, autograph=False)
    return lambda images: graph(tf.constant(images)).numpy()


def _hash_backbone(encoder: Encoder) -> str:
    """SHA-256 of the backbone's weights; trainings of different decoders share the features of one backbone."""
    digest = hashlib.sha256()
    for name, variable in sorted(named_backbone_variables(encoder).items()):
        digest.update(name.encode() + np.asarray(variable).tobytes())
    return digest.hexdigest()


def _decode(chunk: Sequence[Example], size: int) -> list[Images]:
    return [example.load(size).pixels for example in chunk]


def _cached(
    examples: Sequence[Example],
    path: Path,
    key: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    compute: Callable[[Sequence[Example]], npt.NDArray[Any]],
) -> npt.NDArray[Any]:
    """The array for `key` and the images, computed unless it is cached."""
    key = hashlib.sha256(f"{_FORMAT} {key} {hash_images(examples)}".encode()).hexdigest()
    file = path.with_name(f"{path.name}-{key[:32]}.npy")
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        with partial.open("ab") as lock:
            # One training computes; others that share the folder wait for it.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not file.exists():
                _compute_file(partial, path.name, examples, dtype, shape, compute)
                partial.replace(file)
    return _open_array(file, dtype, shape)


def _compute_file(
    file: Path,
    label: str,
    examples: Sequence[Example],
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    compute: Callable[[Sequence[Example]], npt.NDArray[Any]],
) -> None:
    try:
        array = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
        _allocate(file)
        for start in range(0, len(examples), _BATCH):
            chunk = examples[start : start + _BATCH]
            array[start : start + len(chunk)] = compute(chunk)
            if start // _BATCH % 20 == 0:
                print(f"preparing images ({label}): {start:,} of {len(examples):,}", flush=True)
        array.flush()
    except BaseException as error:
        os.truncate(file, 0)  # not unlinked: other trainings wait for the lock on this very file
        if isinstance(error, OSError) and error.filename is None:
            raise OSError(error.errno, error.strerror, str(file)) from error
        raise


def _allocate(file: Path) -> None:
    """Reserves the file's disk space. On a full disk, writing to the memory map would kill the process."""
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as whole:
            os.posix_fallocate(whole.fileno(), 0, file.stat().st_size)


def _open_array(file: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    try:
        array = np.load(file, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file} is damaged; delete it to compute it again") from error
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{file} holds {array.dtype}{list(array.shape)}, not {dtype}{list(shape)}; delete it")
    return array
