"""Selects the words that may come next, and the most likely of them, in NumPy.

Dimensions: R hypotheses, T maximum words, V words of the vocabulary.
"""

from __future__ import annotations

import numpy as np

from model.numpy_decoder import IMPOSSIBLE, Bools, Floats, Ints, Places

_MAX_SCANS = 8  # the largest values of a row are found one by one, up to so many; sorting is faster for more


def largest_places(values: Floats, count: int) -> Places:
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


def rule_out_repeats(scores: Floats, words: Ints, last: Ints, number: int, n: int, once: Bools | None) -> None:
    """Makes words impossible that may not come again, as `model.search` describes it, in place.

    Args:
      scores: float32[R, V].
      words: int32[R, T], of which the first `number` have been said.
      last: int32[R], the last of them.
      number: of words so far.
      n: no n words are repeated; 0 allows everything.
      once: bool[V], words that come once; None for none.
    """
    if n:
        _rule_out_repeats(scores, words, last, number, n)
        if once is not None:
            _rule_out_said(scores, words[:, :number], once)


def _rule_out_repeats(scores: Floats, words: Ints, last: Ints, number: int, n: int) -> None:
    """Makes the last word impossible, and words that would repeat n words: float32[R, V], int32[R, T], int32[R]."""
    rows = np.arange(len(scores))
    scores[rows, last] += np.float32(IMPOSSIBLE)  # an addition, so that NaN stays NaN
    before = n - 1
    if number < n:
        return
    # follows[r, t]: the n - 1 words before position n - 1 + t equal the last n - 1 words.
    follows = np.ones((len(scores), number - before), np.bool_)
    for place in range(before):
        follows &= words[:, place : place + number - before] == words[:, number - before + place][:, None]
    found, places = follows.nonzero()
    ruled_out = words[found, places + before]
    fresh = ruled_out != last[found]
    scores[found[fresh], ruled_out[fresh]] += np.float32(IMPOSSIBLE)


def _rule_out_said(scores: Floats, words: Ints, once: Bools) -> None:
    """Makes those of the words so far impossible that come once: float32[R, V], int32[R, t], bool[V]."""
    rows, places = once[words].nonzero()
    scores[rows, words[rows, places]] += np.float32(IMPOSSIBLE)
