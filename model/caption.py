"""A caption of an image and its score, and captions from the numbers that a search has found."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.config import Decoding
from model.vocabulary import Vocabulary


@dataclass(frozen=True)
class Caption:
    """A caption and its score.

    Attributes:
      text: words in lower case, separated by blanks.
      score: mean natural log-probability of the words, including `<end>`; at most 0, and closer to 0 is more
        certain. None if the captioner returns no score; this project's own model always returns one.
    """

    text: str
    score: float | None


def captions_from(
    vocabulary: Vocabulary, words: npt.NDArray[np.int32], totals: npt.NDArray[np.float64]
) -> list[tuple[Caption, ...]]:
    """int32[B, K, T] and their summed log-probabilities, float64[B, K] -> K captions for each of B images."""
    scores = totals / np.maximum(1, np.count_nonzero(words, axis=-1))
    return [
        tuple(Caption(vocabulary.decode(row), score) for row, score in zip(*found, strict=True))
        for found in zip(words.tolist(), scores.tolist(), strict=True)
    ]


def best_first(
    words: npt.NDArray[np.int32], totals: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    """Sorts the captions of each image by score: int32[B, K, T], float64[B, K]. Sampled ones are in random order."""
    lengths = np.maximum(1, np.count_nonzero(words, axis=-1))
    order = np.argsort(-totals / lengths, axis=-1, kind="stable")
    return np.take_along_axis(words, order[..., None], axis=1), np.take_along_axis(totals, order, axis=-1)


def uniforms(images: npt.NDArray[np.uint8], decoding: Decoding, max_words: int) -> npt.NDArray[np.float32]:
    """Random numbers for sampling, which depend on an image's pixels and the seed only.

    Args:
      images: uint8[B, S, S, 3].
      decoding: with the seed and K, the number of captions.
      max_words: T.

    Returns:
      float32[B, K, T] in [0, 1).
    """
    seeds = [(decoding.seed, zlib.crc32(image.tobytes())) for image in images]
    shape = (decoding.num_captions, max_words)
    return np.stack([np.random.default_rng(seed).random(shape, np.float32) for seed in seeds])


def check_images(images: npt.NDArray[Any], size: int) -> None:
    """Raises ValueError unless `images` is uint8[B, size, size, 3]."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3):
        raise ValueError(f"expected uint8[B, {size}, {size}, 3], got {images.dtype}{list(images.shape)}")
