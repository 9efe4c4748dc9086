"""Captions as arrays of word numbers, and the choice of some for a step."""

from __future__ import annotations

import numpy as np

from model.training.caption_words import ended, one_of_each, some_of_each, trimmed
from model.vocabulary import END, START


def test_one_caption_of_each_photograph_is_forced() -> None:
    words = np.zeros((2, 3, 12), np.int32)
    words[0, :2, :3] = [[START, 5, END], [START, 6, END]]
    words[1, 0, :4] = [START, 7, 8, END]
    rng = np.random.default_rng(0)
    drawn = [one_of_each(words, rng) for _ in range(20)]
    assert {row.shape for row in drawn} == {(2, 1, 4)}
    assert {int(row[0, 0, 1]) for row in drawn} == {5, 6}
    assert {int(row[1, 0, 1]) for row in drawn} == {7}


def test_some_captions_of_each_photograph() -> None:
    words = np.zeros((2, 3, 4), np.int32)
    words[0, :, 0], words[0, :, 1] = START, [10, 11, 12]
    words[1, 0, :2] = START, 20  # one caption, the others are padding
    drawn = [some_of_each(words, 2, np.random.default_rng(seed)) for seed in range(50)]
    assert all(two.shape == (2, 2, 4) for two in drawn)
    assert {tuple(sorted(two[0, :, 1])) for two in drawn} == {(10, 11), (10, 12), (11, 12)}
    assert all(two[1, :, 1].tolist() == [20, 0] for two in drawn)
    for count in (0, 3, 9):
        np.testing.assert_array_equal(some_of_each(words, count, np.random.default_rng(0)), words)


def test_captions_are_trimmed_to_the_longest_of_the_batch() -> None:
    words = np.zeros((2, 2, 26), np.int32)
    words[0, 0, :9] = [START, 5, 6, 7, 8, 9, 10, 11, END]
    words[1, 0, :3] = [START, 5, END]
    assert trimmed(words).shape == (2, 2, 12)
    np.testing.assert_array_equal(trimmed(words), words[..., :12])
    assert ended(words[1, 0]) == (5, END)
    assert ended(words[1, 1]) == ()
