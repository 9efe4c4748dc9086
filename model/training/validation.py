"""The validation score, by which the epochs of a training are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tensorflow as tf

from model.captioner import Captioner
from model.training.data import Example
from model.training.features import Features, Images
from model.training.metrics import quick_cider

Tensor = Any
_BATCH = 100


class Validation:
    """CIDEr of greedy captions, times 100.

    Args:
      captioner: the captioner in training; its current weights are scored.
      examples: N images with human captions.
      inputs: the input of `encode` for each image, an array of N rows.
      encode: rows of `inputs` -> features float32[B, L, U].
    """

    def __init__(
        self,
        captioner: Captioner,
        examples: Sequence[Example],
        inputs: Features | Images,
        encode: Callable[[Tensor], Tensor],
    ) -> None:
        self._captioner = captioner
        # By position: image ids are not unique where several data sets are combined.
        self._references = {str(row): example.captions for row, example in enumerate(examples)}
        self._inputs = inputs
        self._compiled = tf.function(lambda rows: captioner.caption_features(encode(rows)).words, autograph=False)

    def __call__(self) -> float:
        captions: list[str] = []
        for start in range(0, len(self._inputs), _BATCH):
            words = self._compiled(tf.convert_to_tensor(self._inputs[start : start + _BATCH]))
            captions.extend(self._captioner.vocabulary.decode(row) for row in words.numpy()[:, 0])
        return quick_cider(
            self._references, {image: [caption] for image, caption in zip(self._references, captions, strict=True)}
        )


def mean_validation(sets: Iterable[Validation]) -> Callable[[], float]:
    """Validation on several sets: the mean of their scores, so that a small set counts as much as a large one."""
    validations = list(sets)

    def validate() -> float:
        scores = [validation() for validation in validations]
        if len(scores) > 1:
            print("validation CIDEr of each set: " + ", ".join(f"{score:.1f}" for score in scores), flush=True)
        return sum(scores) / len(scores)

    return validate
