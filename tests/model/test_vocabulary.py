"""Text to numbers and back."""

from __future__ import annotations

import numpy as np
import pytest

from model.vocabulary import END, PAD, SPECIAL_WORDS, START, UNKNOWN, Vocabulary, standardize

DOGS = Vocabulary((*SPECIAL_WORDS, "a", "dog", "dog's"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("A Dog Runs .", ["a", "dog", "runs"], id="case and full stop"),
        pytest.param("a t-shirt, wet", ["a", "tshirt", "wet"], id="hyphen and comma vanish without a blank"),
        pytest.param("the dog's  tail", ["the", "dog's", "tail"], id="apostrophe stays, blanks fold"),
        pytest.param('"#100%"', ["100"], id="digits stay"),
        pytest.param("", [], id="empty"),
    ],
)
def test_standardize(text: str, words: list[str]) -> None:
    assert standardize(text) == words


def test_build_keeps_frequent_words_most_frequent_first() -> None:
    built = Vocabulary.build(["a dog", "a cat", "A dog!", "a b", "cat"], min_count=2)
    assert built.words == (*SPECIAL_WORDS, "a", "cat", "dog")


def test_build_ignores_words_that_are_spelt_like_special_ones() -> None:
    assert Vocabulary.build(["<end> of a street"] * 4).words == (*SPECIAL_WORDS, "a", "of", "street")


def test_encode_marks_ends_and_unknown_words_and_pads() -> None:
    np.testing.assert_array_equal(DOGS.encode("A zebra dog.", 4), [START, 4, UNKNOWN, 5, END, PAD])


def test_encode_cuts_long_captions_but_ends_them() -> None:
    np.testing.assert_array_equal(DOGS.encode("dog dog dog", 2), [START, 5, 5, END])


def test_decode_stops_at_the_end_and_drops_special_words() -> None:
    assert DOGS.decode([START, 4, UNKNOWN, 6, END, 5, 5]) == "a dog's"


def test_file_is_readable_text_and_reads_back(tmp_path) -> None:
    DOGS.save(tmp_path / "vocabulary.txt")
    assert (tmp_path / "vocabulary.txt").read_text().split("\n")[4:6] == ["a", "dog"]
    assert Vocabulary.load(tmp_path / "vocabulary.txt") == DOGS


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(("a", "dog"), "starts with", id="no special words"),
        pytest.param((*SPECIAL_WORDS, "a", "a"), "'a' twice", id="a word twice"),
    ],
)
def test_refuses(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Vocabulary(words)
