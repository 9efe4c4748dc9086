"""The decoder in NumPy: the same words as `model.network.Decoder` and `model.search`, except for rounding.

A step is a few matrix products, which BLAS computes as fast as TensorFlow does; the search between the steps is far
cheaper outside a graph. Hypotheses that have ended take no further part in a step, and an image leaves the batch as
soon as its best captions can no longer change. Decoding so takes no TensorFlow, whose import takes seconds and whose
graph takes hundreds of megabytes.

Dimensions: B images, K hypotheses for each image, R hypotheses of a batch that go on, L grid positions, E units of the
embedding, U units, T maximum words, V words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.vocabulary import END, PAD, START, UNKNOWN

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_IMPOSSIBLE = -1e9  # not -inf: the sum of a log-probability and infinity is no number to compare with
_EPSILON = 1e-3  # of Keras's LayerNormalization
_MAX_SCANS = 8  # the largest values of a row are found one by one, up to so many; sorting is faster for more


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
        bias[[PAD, UNKNOWN, START]] += np.float32(_IMPOSSIBLE)  # they are in no caption
        self._bias, self._bias_at_start = bias, bias.copy()
        self._bias_at_start[END] += np.float32(_IMPOSSIBLE)  # a caption has at least one word
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


@dataclass(frozen=True)
class BeamSearch:
    """Beam search, as `model.search.beam` describes it; with one hypothesis it is greedy search.

    Attributes:
      width: K.
      kept: captions that are returned for each image, at most `width`.
      max_words: T.
      length_penalty: the alpha of Wu et al. 2016, equation 14.
      no_repeat_ngram: as `model.search` describes it.
      once: bool[V], likewise.
    """

    width: int
    kept: int
    max_words: int
    length_penalty: float
    no_repeat_ngram: int
    once: Bools | None = None

    def __call__(self, decoder: NumpyDecoder, features: Floats) -> tuple[Ints, Doubles]:
        """Captions the features of a batch.

        Args:
          decoder: computes the steps.
          features: float32[B, L, U].

        Returns:
          int32[B, kept, T], words that end with END unless there are T of them, padded with PAD; and float64[B, kept],
          the sums of their log-probabilities. The best caption of an image comes first.
        """
        images = len(features)
        words = np.full((images, self.kept, self.max_words), PAD, np.int32)
        totals = np.zeros((images, self.kept))
        beam = _Beam.start(images, self.width, self.max_words, decoder.initial_state(features))
        for number in range(self.max_words):
            beam, ranks = self._next(decoder, features, beam, number)
            done = self._is_done(beam, ranks) if number + 1 < self.max_words else np.ones(len(beam.images), np.bool_)
            if not done.any():
                continue
            words[beam.images[done]] = beam.words[done, : self.kept]
            totals[beam.images[done]] = beam.totals[done, : self.kept]
            if done.all():
                break
            beam, features = beam.select(~done), features[~done]
        return words, totals

    def _next(self, decoder: NumpyDecoder, features: Floats, beam: _Beam, number: int) -> tuple[_Beam, Doubles]:
        """The beam with one more word, and the ranks of its hypotheses, float64[B, K], in descending order."""
        images, count = len(features), min(self.width, decoder.words)
        going = np.zeros((images, self.width), np.bool_)
        if number == 0:
            going[:, 0] = True  # all hypotheses are equal
        else:
            going = ~beam.ended
        state = beam.state
        state[going] = decoder.next_state(beam.last[going], state[going])
        logits = decoder.logits(decoder.attend(state, features)[going], at_start=number == 0)
        best, candidates = self._best_words(logits, beam, going, number, count)
        scores = np.full((images, self.width, count), _IMPOSSIBLE)
        scores[..., 0] = 0.0
        chosen = np.full((images, self.width, count), PAD, np.int32)
        if number == 0:
            scores[:], chosen[:] = best[:, None], candidates[:, None]
            state[:] = state[:, :1]
        else:
            scores[going], chosen[going] = best, candidates
        return self._choose(beam, state, scores, chosen, number)

    def _best_words(self, logits: Floats, beam: _Beam, going: Bools, number: int, count: int) -> tuple[Floats, Ints]:
        """The C likeliest next words of hypotheses: log-probabilities float32[R, C], words int32[R, C]."""
        largest = logits.max(axis=1, keepdims=True)
        log_of_sum = largest + np.log(np.exp(logits - largest).sum(axis=1, keepdims=True))
        if self.no_repeat_ngram:
            _rule_out_repeats(logits, beam.words[going], beam.last[going], number, self.no_repeat_ngram)
            if self.once is not None:
                _rule_out_said(logits, beam.words[going, :number], self.once)
        words = _top(logits, count)
        return np.take_along_axis(logits, words, axis=1) - log_of_sum, words.astype(np.int32)

    def _choose(self, beam: _Beam, state: Floats, scores: Doubles, chosen: Ints, number: int) -> tuple[_Beam, Doubles]:
        """The K best continuations of C for each hypothesis: float64[B, K, C], int32[B, K, C]."""
        images, _, count = chosen.shape
        totals = beam.totals[..., None] + scores
        lengths = beam.lengths + ~beam.ended
        ranked = totals / self._penalty(lengths)[..., None]
        if number == 0:
            ranked[:, 1:] = _IMPOSSIBLE
        ranked = ranked.reshape(images, -1)
        places = np.argsort(-ranked, axis=1, kind="stable")[:, : self.width]
        rows, parents = np.arange(images)[:, None], places // count
        last = chosen.reshape(images, -1)[rows, places]
        words = beam.words[rows, parents]
        words[..., number] = last
        grown = _Beam(
            images=beam.images,
            last=last,
            ended=beam.ended[rows, parents] | (last == END),
            state=state[rows, parents],
            words=words,
            totals=totals.reshape(images, -1)[rows, places],
            lengths=lengths[rows, parents],
        )
        return grown, ranked[rows, places]

    def _is_done(self, beam: _Beam, ranks: Doubles) -> Bools:
        """Images whose best captions are final: bool[B].

        They have ended, and no unfinished hypothesis can overtake them: log-probabilities only add up to less, and the
        longest caption has the greatest penalty to divide by.
        """
        longest = np.maximum(self._penalty(beam.lengths), self._penalty(np.full_like(beam.lengths, self.max_words)))
        reachable = np.where(beam.ended, -np.inf, beam.totals / longest).max(axis=1)
        return beam.ended.all(axis=1) | (beam.ended[:, : self.kept].all(axis=1) & (ranks[:, self.kept - 1] > reachable))

    def _penalty(self, lengths: npt.NDArray[np.int64]) -> Doubles:
        return np.asarray(((5.0 + lengths) / 6.0) ** self.length_penalty, np.float64)


@dataclass(frozen=True)
class _Beam:
    """The hypotheses of a batch's unfinished images."""

    images: npt.NDArray[np.intp]  # [B], positions in the whole batch
    last: Ints  # [B, K]
    ended: Bools  # [B, K]
    state: Floats  # [B, K, U]
    words: Ints  # [B, K, T]
    totals: Doubles  # [B, K], sums of log-probabilities
    lengths: npt.NDArray[np.int64]  # [B, K], words so far, END included

    @classmethod
    def start(cls, images: int, width: int, max_words: int, state: Floats) -> _Beam:
        shape = (images, width)
        return cls(
            images=np.arange(images),
            last=np.full(shape, START, np.int32),
            ended=np.zeros(shape, np.bool_),
            state=np.repeat(state[:, None], width, axis=1),
            words=np.full((*shape, max_words), PAD, np.int32),
            totals=np.zeros(shape),
            lengths=np.zeros(shape, np.int64),
        )

    def select(self, rows: Bools) -> _Beam:
        """The beam of some of the images: bool[B]."""
        return _Beam(*(values[rows] for values in vars(self).values()))


def _top(values: Floats, count: int) -> npt.NDArray[np.intp]:
    """Positions of the `count` largest values of each row, in descending order: float32[R, V] -> [R, count].

    Overwrites nothing that it does not restore.
    """
    if count > _MAX_SCANS:
        places = np.argpartition(-values, min(count, values.shape[1] - 1), axis=1)[:, :count]
        places.sort(axis=1)  # the first of equal values comes first
        order = np.argsort(-np.take_along_axis(values, places, axis=1), axis=1, kind="stable")
        return np.take_along_axis(places, order, axis=1)
    rows, found, kept = np.arange(len(values)), [], []
    for _ in range(count):
        place = values.argmax(axis=1)
        found.append(place)
        kept.append(values[rows, place])
        values[rows, place] = -np.inf
    for place, value in zip(found, kept, strict=True):
        values[rows, place] = value
    return np.stack(found, axis=1)


def _rule_out_repeats(logits: Floats, words: Ints, last: Ints, number: int, n: int) -> None:
    """Makes the last word impossible, and words that would repeat n words: float32[R, V], int32[R, T], int32[R]."""
    rows = np.arange(len(logits))
    logits[rows, last] += np.float32(_IMPOSSIBLE)  # an addition, so that NaN stays NaN
    before = n - 1
    if number < n:
        return
    # follows[r, t]: the n - 1 words before position n - 1 + t equal the last n - 1 words.
    follows = np.ones((len(logits), number - before), np.bool_)
    for place in range(before):
        follows &= words[:, place : place + number - before] == words[:, number - before + place][:, None]
    found, places = follows.nonzero()
    ruled_out = words[found, places + before]
    fresh = ruled_out != last[found]
    logits[found[fresh], ruled_out[fresh]] += np.float32(_IMPOSSIBLE)


def _rule_out_said(logits: Floats, words: Ints, once: Bools) -> None:
    """Makes those of the words so far impossible that come once: float32[R, V], int32[R, t], bool[V]."""
    rows, places = once[words].nonzero()
    logits[rows, words[rows, places]] += np.float32(_IMPOSSIBLE)
