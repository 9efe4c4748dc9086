"""A caption of an image and its score, and captions from the numbers that a search has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.vocabulary import Vocabulary


@dataclass(frozen=True)
class Caption:
    """A caption and its score.

    Attributes:
      text: words in lower case, separated by blanks.
      score: mean natural log-probability of the words, `<end>` included; at most 0, which means certain. None where the
        captioner knows none; this project's own model always does.
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


def check_images(images: npt.NDArray[Any], size: int) -> None:
    """Raises ValueError unless `images` is uint8[B, size, size, 3]."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3):
        raise ValueError(f"expected uint8[B, {size}, {size}, 3], got {images.dtype}{list(images.shape)}")
