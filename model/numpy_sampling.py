"""Sampling in NumPy: the same words as `model.search.sample`, except for rounding.

Dimensions: B images, K captions for each image, R captions of a batch that go on, L grid positions, U units, T maximum
words, V words of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.numpy_decoder import Bools, Doubles, Floats, Ints, NumpyDecoder
from model.numpy_words import largest_places, rule_out_repeats
from model.vocabulary import END, PAD, START


@dataclass(frozen=True)
class Sampling:
    """Draws each word from the likeliest ones, as `model.search.sample` describes it.

    Attributes:
      max_words: T.
      top_k: number of words to draw from; V or more means all words.
      temperature: divides the logits.
      no_repeat_ngram: as `model.search` describes it.
      once: bool[V], as `model.search` describes it.
    """

    max_words: int
    top_k: int
    temperature: float
    no_repeat_ngram: int
    once: Bools | None = None

    def __call__(self, decoder: NumpyDecoder, features: Floats, uniforms: Floats) -> tuple[Ints, Doubles]:
        """Captions the features of a batch.

        Args:
          decoder: computes the steps.
          features: float32[B, L, U].
          uniforms: float32[B, K, T] in [0, 1), the only source of randomness.

        Returns:
          int32[B, K, T], words that end with END unless there are T of them, padded with PAD; and float64[B, K], the
          sums of their log-probabilities.
        """
        images, captions, _ = uniforms.shape
        words = np.full(uniforms.shape, PAD, np.int32)
        totals = np.zeros((images, captions))
        last = np.full((images, captions), START, np.int32)
        state = np.repeat(decoder.initial_state(features)[:, None], captions, axis=1)
        going = np.ones((images, captions), np.bool_)
        for number in range(self.max_words):
            state[going] = decoder.next_state(last[going], state[going])
            left = going.any(axis=1)
            joined = decoder.attend(state[left], features[left])[going[left]]
            logits = decoder.logits(joined, at_start=number == 0)
            chosen, scores = self._draw(logits, words[going], last[going], number, uniforms[going][:, number])
            last[going], words[going, number] = chosen, chosen
            totals[going] += scores
            going &= last != END
            if not going.any():
                break
        return words, totals

    def _draw(self, logits: Floats, words: Ints, last: Ints, number: int, uniforms: Floats) -> tuple[Ints, Floats]:
        """The next word of each caption, int32[R], and its log-probability, float32[R]."""
        scores = logits - _log_of_sum(logits)
        rule_out_repeats(scores, words, last, number, self.no_repeat_ngram, self.once)
        rows = np.arange(len(scores))
        if self.top_k < scores.shape[1]:
            candidates = largest_places(scores, self.top_k)
            sharpened = np.take_along_axis(scores, candidates, axis=1)
        else:  # sorting all words would dominate the run time
            candidates, sharpened = None, scores.copy()
        sharpened /= np.float32(self.temperature)
        cumulative = np.cumsum(np.exp(sharpened - _log_of_sum(sharpened)), axis=1)
        # Without the last column, since after rounding the sum may be below a uniform close to 1.
        places = (cumulative[:, :-1] <= uniforms[:, None]).sum(axis=1)
        chosen = places if candidates is None else candidates[rows, places]
        return chosen.astype(np.int32), scores[rows, chosen]


def _log_of_sum(values: Floats) -> Floats:
    """The logarithms of the sums of exponentials: float32[R, V] -> float32[R, 1]."""
    largest = values.max(axis=1, keepdims=True)
    return np.asarray(largest + np.log(np.exp(values - largest).sum(axis=1, keepdims=True)))
