"""The loss of teacher forcing: the cross-entropy of each next word, when the words before it are given.

Dimensions: B images of a batch, K captions for each image, T words, W words that are not padding, V words of the
vocabulary, L grid positions, U units.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras import ops

from model.network import Decoder
from model.vocabulary import PAD

Tensor = Any


def forced_loss(decoder: Decoder, features: Tensor, words: Tensor, label_smoothing: float) -> Tensor:
    """Cross-entropy of the next words of human captions: float32[B, L, U], int32[B, K, T] -> float32[]."""
    logits, said, _ = next_words(decoder, words, features)
    return cross_entropy(said, logits, label_smoothing)


def cross_entropy(words: Tensor, logits: Tensor, label_smoothing: float) -> Tensor:
    """Mean over W words: int32[W], logits float32[W, V] -> float32[]."""
    said, normalizer = word_log_probabilities(logits, words)
    spread = ops.mean(logits, axis=-1) - normalizer
    return -ops.mean((1 - label_smoothing) * said + label_smoothing * spread)


def next_words(decoder: Decoder, words: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Teacher forcing at the W positions that are not padding.

    Returns:
      logits float32[W, V], the words int32[W] at these positions, and the positions int32[W, 3] in [B, K, T].
    """
    said = words[..., 1:]
    places = ops.cast(ops.stack(ops.nonzero(ops.not_equal(said, PAD)), axis=-1), "int32")
    joined = tf.gather_nd(decoder.joined(words[..., :-1], features, training=True), places)
    return ops.cast(decoder.to_vocabulary(joined), "float32"), tf.gather_nd(said, places), places


def word_log_probabilities(logits: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of `words`, and the normalizers of the logits: float32[W, V], int32[W] -> float32[W] both."""
    # Not log_softmax: on a CPU, each pass over V words for all positions is expensive.
    normalizer = ops.logsumexp(logits, axis=-1)
    said = ops.take_along_axis(logits, words[:, None], axis=-1)[:, 0]
    return said - normalizer, normalizer
