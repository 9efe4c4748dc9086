"""The decoder in NumPy: the same numbers as `model.network.Decoder`, except for rounding.

A step is a few matrix products, which BLAS computes as fast as TensorFlow does. Decoding so takes no TensorFlow, whose
import takes seconds and whose graph takes hundreds of megabytes.

Dimensions: B images, Q hypotheses for each image, R hypotheses of a batch that go on, L grid positions, U units, V
words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from model.vocabulary import END, PAD, START, UNKNOWN

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Places = npt.NDArray[np.intp]

IMPOSSIBLE = -1e9  # not -inf: the sum of a log-probability and infinity is no number to compare with
_EPSILON = 1e-3  # of Keras's LayerNormalization


class NumpyDecoder:
    """One step of the decoder, and the initial state.

    Args:
      arrays: a bundle's `decoder/...` arrays, of any float dtype.
    """

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        def array(name: str) -> Floats:
            return np.ascontiguousarray(arrays[f"decoder/{name}"], np.float32)

        self._embedding = array("embedding/embeddings")
        self._kernel, self._recurrent_kernel = array("gru/kernel"), array("gru/recurrent_kernel")
        self._input_bias, self._recurrent_bias = array("gru/bias")
        self._gamma, self._beta = array("normalization/gamma"), array("normalization/beta")
        self._to_vocabulary = array("to_vocabulary/kernel")
        # What the GRU makes of a word is computed when the word is first said; most are never said.
        self._given = np.empty((len(self._embedding), self._kernel.shape[1]), np.float32)
        self._is_given = np.zeros(len(self._embedding), np.bool_)
        bias = array("to_vocabulary/bias").copy()
        bias[[PAD, UNKNOWN, START]] += np.float32(IMPOSSIBLE)  # they are in no caption
        self._bias, self._bias_at_start = bias, bias.copy()
        self._bias_at_start[END] += np.float32(IMPOSSIBLE)  # a caption has at least one word
        self._state_from_mean = None
        if "decoder/state_from_mean/kernel" in arrays:
            self._state_from_mean = array("state_from_mean/kernel"), array("state_from_mean/bias")

    @property
    def words(self) -> int:
        """V."""
        return int(self._bias.size)

    def initial_state(self, features: Floats) -> Floats:
        """The GRU's initial state: float32[B, L, U] -> float32[B, U]."""
        mean = features.mean(axis=1)
        if self._state_from_mean is None:
            return np.zeros_like(mean)
        kernel, bias = self._state_from_mean
        return np.tanh(mean @ kernel + bias)

    def next_state(self, words: Ints, state: Floats) -> Floats:
        """The GRU (Cho et al. 2014, with Keras's `reset_after`): int32[R], float32[R, U] -> float32[R, U]."""
        units = state.shape[1]
        given = self._from_words(words)
        recurrent = state @ self._recurrent_kernel
        recurrent += self._recurrent_bias
        gates = given[:, : 2 * units] + recurrent[:, : 2 * units]
        gates *= 0.5  # the logistic function, by a tanh that cannot overflow
        np.tanh(gates, out=gates)
        gates += 1.0
        gates *= 0.5
        update, reset = gates[:, :units], gates[:, units:]
        candidate = np.tanh(given[:, 2 * units :] + reset * recurrent[:, 2 * units :])
        return candidate + update * (state - candidate)

    def _from_words(self, words: Ints) -> Floats:
        """The GRU's products with embedded words: int32[R] -> float32[R, 3 U]. Thread-safe: all write the same."""
        new = np.unique(words[~self._is_given[words]])
        if new.size:
            self._given[new] = self._embedding[new] @ self._kernel + self._input_bias
            self._is_given[new] = True
        return self._given[words]

    def attend(self, queries: Floats, features: Floats) -> Floats:
        """The normalized sum of queries and their contexts: float32[B, Q, U], float32[B, L, U] -> float32[B, Q, U]."""
        weights = queries @ features.transpose(0, 2, 1)
        weights -= weights.max(axis=-1, keepdims=True)
        np.exp(weights, out=weights)
        weights /= weights.sum(axis=-1, keepdims=True)
        joined = queries + weights @ features
        joined -= joined.mean(axis=-1, keepdims=True)
        joined /= np.sqrt(np.square(joined).mean(axis=-1, keepdims=True) + np.float32(_EPSILON))
        joined *= self._gamma
        joined += self._beta
        return joined

    def logits(self, joined: Floats, at_start: bool) -> Floats:
        """float32[R, U] -> float32[R, V]."""
        logits = joined @ self._to_vocabulary
        logits += self._bias_at_start if at_start else self._bias
        return logits
