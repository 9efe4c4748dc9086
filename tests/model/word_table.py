"""A table of the probabilities of the next word after each prefix, as a step of the decoding loops."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from model.decoding_loop import Hypotheses
from model.vocabulary import END, PAD, START

A, B, C = 4, 5, 6
V = 7
WORDS = 6  # that the step can remember


def step_from(table: dict[tuple[int, ...], dict[int, float]]):
    """A step that knows the probabilities of the next word after each prefix.

    The state holds the prefix, one word a column, so that a loop that mixes up states of different hypotheses fails.
    """
    probabilities = np.full((len(table), V), 1e-6)
    prefixes = np.zeros((len(table), WORDS))
    for row, (prefix, words) in enumerate(table.items()):
        prefixes[row, : len(prefix)] = prefix
        for word, probability in words.items():
            probabilities[row, word] = probability
    logits_of = tf.constant(np.log(probabilities / probabilities.sum(axis=1, keepdims=True)), tf.float32)

    def step(last: tf.Tensor, state: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        length = tf.reduce_sum(tf.cast(state > 0, tf.int32), axis=-1, keepdims=True)
        chosen = tf.cast(last, tf.float32)[..., None]
        grown = tf.where((tf.range(WORDS) == length) & (chosen != START) & (chosen != PAD), chosen, state)
        distance = tf.reduce_sum(tf.abs(grown[:, :, None, :] - tf.constant(prefixes, tf.float32)), axis=-1)
        return tf.gather(logits_of, tf.argmin(distance, axis=-1)), grown

    return step


# "a b" is the likeliest caption (0.4 * 0.9 * 1.0 = 0.36), although "b" is the likelier first word
# (then 0.6 * 0.55 = 0.33 for "b", 0.6 * 0.45 = 0.27 for "b c").
GARDEN_PATH = {
    (): {A: 0.4, B: 0.6},
    (A,): {B: 0.9, END: 0.1},
    (A, B): {END: 1.0},
    (B,): {END: 0.55, C: 0.45},
    (B, C): {END: 1.0},
}


def state_of(images: int, captions: int) -> tf.Tensor:
    return tf.zeros((images, captions, WORDS))


def spelt(found: Hypotheses) -> list[list[list[int]]]:
    return [[[w for w in row if w != PAD] for row in image] for image in found.words.numpy().tolist()]


def total(found: Hypotheses) -> np.ndarray:
    return np.exp(found.log_probabilities.numpy().sum(axis=-1))
