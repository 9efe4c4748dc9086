"""Beam search in NumPy: the same words as `model.search.beam`, except for rounding.

Hypotheses that have ended take no further part in a step, and an image leaves the batch as soon as its best captions
can no longer change.

Dimensions: B images, K hypotheses for each image, R hypotheses of a batch that go on, L grid positions, U units, T
maximum words, V words of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.numpy_decoder import IMPOSSIBLE, Bools, Doubles, Floats, Ints, NumpyDecoder, Places
from model.numpy_words import largest_places, rule_out_repeats
from model.vocabulary import END, PAD, START


@dataclass(frozen=True)
class BeamSearch:
    """Beam search, as `model.search.beam` describes it; with one hypothesis it is greedy search.

    Attributes:
      width: K.
      kept: captions that are returned for each image, at most `width`.
      max_words: T.
      length_penalty: the alpha of Wu et al. 2016, equation 14.
      no_repeat_ngram: as `model.search` describes it.
      once: bool[V], as `model.search` describes it.
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
        scores = np.full((images, self.width, count), IMPOSSIBLE)
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
        rule_out_repeats(logits, beam.words[going], beam.last[going], number, self.no_repeat_ngram, self.once)
        words = largest_places(logits, count)
        return np.take_along_axis(logits, words, axis=1) - log_of_sum, words.astype(np.int32)

    def _choose(self, beam: _Beam, state: Floats, scores: Doubles, chosen: Ints, number: int) -> tuple[_Beam, Doubles]:
        """The K best continuations of C for each hypothesis: float64[B, K, C], int32[B, K, C]."""
        images, _, count = chosen.shape
        totals = beam.totals[..., None] + scores
        lengths = beam.lengths + ~beam.ended
        ranked = totals / self._penalty(lengths)[..., None]
        if number == 0:
            ranked[:, 1:] = IMPOSSIBLE
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

    images: Places  # [B], positions in the whole batch
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
