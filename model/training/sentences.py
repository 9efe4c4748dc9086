"""Sentences without photographs: text that the decoder learns in addition to the captions of photographs.

Sentences show it words and phrases that few photographs have captions with. They are learned as captions of a null
image, whose backbone features are all zero, so the projection's bias is what stands in for a photograph.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from model.training.caption_words import Words, trimmed
from model.training.data import DataError
from model.training.learners import Batch, Learner
from model.training.teacher_forcing import forced_loss
from model.vocabulary import Vocabulary

Tensor = Any
SENTENCES_PER_PHOTOGRAPH = 1  # in each batch


def read_sentences(path: Path) -> list[str]:
    """The lines of a UTF-8 text file, which may be compressed (`.gz`), without the empty ones.

    Raises:
      DataError: the file cannot be read or holds no sentence.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = content.decode("utf-8").splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read as text: {error}; give a UTF-8 file with one sentence per line"
        ) from error
    sentences = [line.strip() for line in lines if line.strip()]
    if not sentences:
        raise DataError(f"{path} holds no sentence; give UTF-8 text, one sentence per line")
    return sentences


def encode_sentences(sentences: Sequence[str], vocabulary: Vocabulary, max_words: int) -> Words:
    """Word numbers of all sentences: int32[N, T + 2]."""
    return np.stack([vocabulary.encode(sentence, max_words) for sentence in sentences])


class WithSentences(Learner):
    """Another learner's loss plus the cross-entropy of sentences given the null image.

    Args:
      learner: learns from photographs.
      sentences: int32[N, T + 2].
      weight: of the sentences' loss, above 0.
      label_smoothing: see `TrainingOptions`.
    """

    def __init__(self, learner: Learner, sentences: Words, weight: float, label_smoothing: float) -> None:
        if not weight > 0:
            raise ValueError(f"sentence_weight must be above 0, not {weight}; without --sentences none are learned")
        super().__init__(learner.encoder, learner.decoder, learner.words)
        self.backbone_variables = learner.backbone_variables
        self._learner = learner
        self._sentences = sentences
        self._weight = weight
        self._label_smoothing = label_smoothing

    def progress(self) -> str:
        return self._learner.progress()

    def batch(self, chosen: npt.NDArray[np.int64], rng: np.random.Generator) -> Batch:
        drawn = rng.integers(len(self._sentences), size=SENTENCES_PER_PHOTOGRAPH * len(chosen))
        return *self._learner.batch(chosen, rng), trimmed(self._sentences[drawn])

    def features(self, inputs: Tensor) -> Tensor:
        return self._learner.features(inputs)

    def loss(self, *batch: Tensor) -> Tensor:
        *seen, sentences = batch
        # All sentences are captions of one image; more than two equal grid positions would change nothing, and Keras
        # warns of attention to one.
        null_image = tf.zeros((1, 2, self.encoder.backbone.output_shape[-1]))
        features = self.encoder.project(null_image)
        text_loss = forced_loss(self.decoder, features, sentences[None], self._label_smoothing)
        return self._learner.loss(*seen) + self._weight * text_loss
