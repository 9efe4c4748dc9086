"""Decoding loops that say no phrase and no word twice, against sequences computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from model import search
from model.vocabulary import END, PAD, START
from tests.model.word_table import A, B, C, V, spelt, state_of, step_from, total

# Left to itself it says "a b c a b c".
ROUND = {
    (): {A: 0.9, B: 0.1},
    (A,): {B: 0.9, A: 0.1},
    (A, B): {C: 0.9, B: 0.1},
    (A, B, C): {A: 0.8, END: 0.2},
    (A, B, C, A): {B: 0.9, C: 0.1},
    (A, B, C, A, B): {C: 0.9, A: 0.1},
    (A, B, C, A, C): {END: 1.0},
    (A, B, C, END): {END: 1.0},
}


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        pytest.param(0, [A, B, C, A, B, C], id="no guard"),
        pytest.param(1, [A, B, C, END], id="no word twice"),
        pytest.param(2, [A, B, C, A, C, END], id="a b only once"),
        pytest.param(3, [A, B, C, A, B, A], id="a b c only once"),
        pytest.param(4, [A, B, C, A, B, C], id="no four words twice"),
        pytest.param(9, [A, B, C, A, B, C], id="longer than the caption"),
    ],
)
def test_no_phrase_of_n_words_is_said_twice(n: int, expected: list[int]) -> None:
    step = step_from(ROUND)
    assert spelt(search.greedy(step, state_of(2, 1), 6, n)) == [[expected]] * 2
    assert spelt(search.beam(step, state_of(2, 1), 6, 0.0, n)) == [[expected]] * 2
    likeliest = tf.zeros((2, 1, 6))
    assert (
        spelt(search.sample(step, state_of(2, 1), 6, likeliest, top_k=3, temperature=1.0, no_repeat_ngram=n))
        == [[expected]] * 2
    )


@pytest.mark.parametrize(
    ("once", "expected"),
    [
        pytest.param([B], [A, B, C, A, C, END], id="b only once"),
        pytest.param([A, B, C], [A, B, C, END], id="each word once"),
        pytest.param([], [A, B, C, A, B, C], id="any word again"),
    ],
)
def test_some_words_are_said_once(once: list[int], expected: list[int]) -> None:
    step, words = step_from(ROUND), np.isin(np.arange(V), once)
    assert spelt(search.greedy(step, state_of(2, 1), 6, 4, once=words)) == [[expected]] * 2
    assert spelt(search.beam(step, state_of(2, 1), 6, 0.0, 4, once=words)) == [[expected]] * 2
    sampled = search.sample(step, state_of(2, 1), 6, tf.zeros((2, 1, 6)), 3, 1.0, 4, once=words)
    assert spelt(sampled) == [[expected]] * 2


def test_no_word_follows_itself() -> None:
    step = step_from({(): {A: 1.0}, (A,): {A: 0.9, B: 0.1}, (A, A): {A: 1.0}, (A, B): {B: 0.9, END: 0.1}})
    found = search.greedy(step, state_of(1, 1), 6, no_repeat_ngram=3)
    assert spelt(found) == [[[A, B, END]]]
    # The model's own probabilities of what was said: 1 * 0.1 * 0.1.
    np.testing.assert_allclose(total(found), 0.01, rtol=1e-3)


def test_hypotheses_of_a_beam_are_guarded_each_by_its_own_words() -> None:
    # "a b a" and "b a a" would both be likelier than what remains: "a b" and "b a" may go on with c alone.
    table = {
        (): {A: 0.6, B: 0.4},
        (A,): {B: 1.0},
        (B,): {A: 1.0},
        (A, B): {B: 0.9, C: 0.1},
        (B, A): {A: 0.8, C: 0.2},
        (A, B, C): {END: 1.0},
        (B, A, C): {END: 1.0},
    }
    found = search.beam(step_from(table), state_of(1, 2), 6, 0.0, no_repeat_ngram=2)
    assert spelt(found) == [[[B, A, C, END], [A, B, C, END]]]
    np.testing.assert_allclose(total(found), [[0.08, 0.06]], rtol=1e-3)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_it_says_what_a_plain_loop_over_words_would_say(n: int) -> None:
    """A model that knows only the last word, different for each image; against the definition, spelt out."""
    images, size, length = 5, 11, 13
    logits = np.random.default_rng(n).normal(0, 2, (images, size, size)).astype(np.float32)
    logits[:, :, [PAD, START]] = -1e9
    logits[:, :, END] -= 3

    def by_hand(image: int) -> list[int]:
        words: list[int] = []
        while len(words) < length and END not in words:
            order = np.argsort(-logits[image, words[-1] if words else START])
            words.append(next(int(word) for word in order if not repeats([*words, int(word)])))
        return words

    def repeats(words: list[int]) -> bool:
        phrases = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        return len(set(phrases)) < len(phrases) or words[-1:] == words[-2:-1]

    def step(last: tf.Tensor, state: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.gather(tf.constant(logits), last, batch_dims=1), state

    compiled = tf.function(lambda state: search.greedy(step, state, length, n))
    assert spelt(compiled(state_of(images, 1))) == [[by_hand(image)] for image in range(images)]
