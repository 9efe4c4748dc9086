"""Human captions as padded arrays of word numbers, and the choice of some of them for a step.

Dimensions: N images, B images of a batch, K captions for each image, T words.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model.training.reward import Caption
from model.vocabulary import END, PAD, START

Words = npt.NDArray[np.int32]
_LENGTH_STEP = 4  # captions are padded to a multiple of it, since TensorFlow traces a graph for each length


def references(words: Words) -> list[list[Caption]]:
    """The human captions in the form that rewards take, from int32[N, K, T + 2]."""
    return [[ended(row) for row in rows if row[0] == START] for rows in words]


def trimmed(words: Words) -> Words:
    """Removes columns that are padding in all captions: int32[B, K, T'] -> int32[B, K, T]."""
    longest = int(np.count_nonzero(words, axis=-1).max())
    return words[..., : min(words.shape[-1], -(-longest // _LENGTH_STEP) * _LENGTH_STEP)]


def one_of_each(words: Words, rng: np.random.Generator) -> Words:
    """Chooses a random caption of each image: int32[B, K, T] -> int32[B, 1, T]."""
    captions = np.count_nonzero(words[..., 0], axis=1)  # the rest is padding
    chosen = rng.integers(np.maximum(captions, 1))
    return trimmed(words[np.arange(len(words)), chosen][:, None])


def some_of_each(words: Words, count: int, rng: np.random.Generator) -> Words:
    """`count` captions of each photograph, drawn at random, 0 for all: int32[B, K, T] -> int32[B, count, T]."""
    if not 0 < count < words.shape[1]:
        return words
    keys = rng.random(words.shape[:2]) + (words[..., 0] == PAD)  # padding comes last
    chosen = np.argsort(keys, axis=1)[:, :count]
    return np.take_along_axis(words, chosen[..., None], axis=1)


def ended(words: Words) -> tuple[int, ...]:
    """The words after `<start>` up to `<end>`, which counts as a word: rewards include where a caption ends."""
    said = [int(word) for word in words[1:] if word != PAD]
    return tuple(said[: said.index(END) + 1] if END in said else said)
