"""Decoding loops against sequences computed by hand, with a table of words in the model's place."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from model import search
from model.decoding_loop import Hypotheses, Step, StepForImages
from model.vocabulary import END, PAD
from tests.model.word_table import GARDEN_PATH, WORDS, A, B, C, V, spelt, state_of, step_from, total


def test_greedy_takes_the_likeliest_word_each_time() -> None:
    found = search.greedy(step_from(GARDEN_PATH), state_of(2, 1), max_words=6)
    assert spelt(found) == [[[B, END]], [[B, END]]]
    np.testing.assert_allclose(total(found), 0.33, rtol=1e-4)


def test_greedy_pads_after_the_end_and_scores_padding_with_zero() -> None:
    found = search.greedy(step_from(GARDEN_PATH), state_of(1, 1), max_words=4)
    assert found.words.shape == (1, 1, 4)
    np.testing.assert_array_equal(found.words[0, 0, 2:], [PAD, PAD])
    np.testing.assert_array_equal(found.log_probabilities[0, 0, 2:], [0, 0])


def test_captions_are_cut_at_the_maximum_length() -> None:
    endless = step_from({(): {A: 1.0}, (A,): {A: 1.0}, (A, A): {A: 1.0}, (A, A, A): {A: 1.0}})
    assert spelt(search.greedy(endless, state_of(1, 1), max_words=3)) == [[[A, A, A]]]
    assert spelt(search.beam(endless, state_of(1, 1), max_words=3, length_penalty=1.0)) == [[[A, A, A]]]


def test_beam_finds_the_likelier_whole() -> None:
    found = search.beam(step_from(GARDEN_PATH), state_of(1, 3), max_words=6, length_penalty=0.0)
    assert spelt(found) == [[[A, B, END], [B, END], [B, C, END]]]
    np.testing.assert_allclose(total(found), [[0.36, 0.33, 0.27]], rtol=1e-4)


def test_beam_of_one_is_greedy() -> None:
    found = search.beam(step_from(GARDEN_PATH), state_of(1, 1), max_words=6, length_penalty=0.0)
    assert spelt(found) == [[[B, END]]]


SHORT_OR_LONG = {
    (): {A: math.exp(-0.75), B: 1 - math.exp(-0.75)},
    (A,): {A: 1.0},
    (A, A): {A: 1.0},
    (A, A, A): {END: 1.0},
    (B,): {END: 1.0},
}


@pytest.mark.parametrize(
    ("length_penalty", "best"),
    [
        # log P("a a a") = -0.75 over 4 words, log P("b") = log(1 - e**-0.75) = -0.6395 over 2 words.
        pytest.param(0.0, [B, END], id="by sum: -0.6395 > -0.75"),
        pytest.param(1.0, [A, A, A, END], id="alpha 1: -0.6395 / (7/6) = -0.548 < -0.75 / (9/6) = -0.5"),
    ],
)
def test_length_penalty_decides_between_short_and_long(length_penalty: float, best: list[int]) -> None:
    found = search.beam(step_from(SHORT_OR_LONG), state_of(1, 2), max_words=6, length_penalty=length_penalty)
    assert spelt(found)[0][0] == best


@pytest.mark.parametrize(
    ("uniforms", "expected"),
    [
        pytest.param([0.0, 0.0], [B, END], id="0 takes the likeliest"),
        pytest.param([0.59, 0.56], [B, C, END], id="just within the likeliest, then beyond it"),
        pytest.param([0.61, 0.5], [A, B, END], id="just beyond the likeliest"),
        pytest.param([0.9999999, 0.95], [A, END], id="close to 1 takes the last of the k"),
    ],
)
def test_sampling_inverts_the_distribution(uniforms: list[float], expected: list[int]) -> None:
    numbers = tf.constant([[[*uniforms, 0.0, 0.0]]])
    found = search.sample(step_from(GARDEN_PATH), state_of(1, 1), 4, numbers, top_k=2, temperature=1.0)
    assert spelt(found) == [[expected]]


def test_sampling_among_one_word_is_greedy() -> None:
    numbers = tf.fill((1, 3, 4), 0.99)
    found = search.sample(step_from(GARDEN_PATH), state_of(1, 3), 4, numbers, top_k=1, temperature=1.0)
    assert spelt(found) == [[[B, END]] * 3]


def test_low_temperature_sharpens() -> None:
    # 0.6 and 0.4 at temperature 0.5 become 0.36 / 0.52 = 0.692 and 0.308: 0.65 now falls to the first word.
    numbers = tf.constant([[[0.65, 0.0, 0.0, 0.0]]])
    found = search.sample(step_from(GARDEN_PATH), state_of(1, 1), 4, numbers, top_k=2, temperature=0.5)
    assert spelt(found) == [[[B, END]]]


def test_sampled_scores_are_the_models_own_probabilities() -> None:
    numbers = tf.constant([[[0.61, 0.0, 0.0, 0.0]]])
    found = search.sample(step_from(GARDEN_PATH), state_of(1, 1), 4, numbers, top_k=2, temperature=0.5)
    # 0.61 is within 0.692, so "b", END: the untempered probability is 0.6 * 0.55.
    np.testing.assert_allclose(total(found), 0.33, rtol=1e-4)


@pytest.mark.parametrize("n", [0, 2])
def test_an_image_without_numbers_has_no_score_and_leaves_its_neighbour_alone(n: int) -> None:
    alone = step_from(GARDEN_PATH)

    def step(last: tf.Tensor, state: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        logits, state = alone(last, state)
        return logits + tf.constant([[[math.nan]], [[0.0]]]), state

    beam = search.beam(step, state_of(2, 3), 6, 0.0, n)
    greedy = search.greedy(step, state_of(2, 1), 6, n)
    sampled = search.sample(step, state_of(2, 1), 6, tf.zeros((2, 1, 6)), top_k=2, temperature=1.0, no_repeat_ngram=n)
    for found in (beam, greedy, sampled):
        assert not np.isfinite(found.log_probabilities.numpy()[0].sum(axis=-1)).any()
    assert spelt(beam)[1] == [[A, B, END], [B, END], [B, C, END]]
    assert spelt(greedy)[1] == spelt(sampled)[1] == [[B, END]]


def test_loops_run_inside_a_graph() -> None:
    compiled = tf.function(lambda state: search.beam(step_from(GARDEN_PATH), state, 6, 0.0))
    assert spelt(compiled(state_of(2, 2)))[1] == [[A, B, END], [B, END]]


def spelling(sentences: list[list[int]], asked: list[int]) -> StepForImages:
    """Steps that spell each image's own sentence; the state counts words, `asked` the images of each step."""
    table = np.full((len(sentences), WORDS + 2, V), 1e-3)
    for image, sentence in enumerate(sentences):
        for place, word in enumerate([*sentence, END]):
            table[image, place, word] = 1.0
    logits_of = tf.constant(np.log(table / table.sum(axis=-1, keepdims=True)), tf.float32)

    def step_for_images(images: tf.Tensor) -> Step:
        def step(last: tf.Tensor, state: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            asked.append(len(last))
            place = tf.cast(state[..., 0], tf.int32)
            return tf.gather(tf.gather(logits_of, images), place, batch_dims=1), state + 1.0

        return step

    return step_for_images


@pytest.mark.parametrize("method", ["greedy", "beam", "sample"])
def test_images_that_are_done_are_left_out(method: str) -> None:
    sentences = [[A], [B, C], [C], [A, B, C, A, B, C], [B], [C, A], [A, B, C, B], [B]]
    captions = 1 if method == "beam" else 2  # a beam's second best says something more
    state, everyone = tf.zeros((8, captions, 1)), tf.range(8)
    uniforms = tf.constant(np.random.default_rng(0).random((8, captions, WORDS + 1)), tf.float32)

    def found(step_for_images: StepForImages | None, step: Step) -> Hypotheses:
        if method == "beam":
            return search.beam(step, state, WORDS + 1, 1.0, step_for_images=step_for_images)
        if method == "sample":
            return search.sample(
                step, state, WORDS + 1, uniforms, top_k=V, temperature=1.0, step_for_images=step_for_images
            )
        return search.greedy(step, state, WORDS + 1, step_for_images=step_for_images)

    asked_all, asked_left = [], []
    whole = found(None, spelling(sentences, asked_all)(everyone))
    left = found(spelling(sentences, asked_left), spelling(sentences, asked_left)(everyone))
    np.testing.assert_array_equal(left.words, whole.words)
    np.testing.assert_allclose(left.log_probabilities, whole.log_probabilities, rtol=1e-6)
    assert len(set(asked_all)) == 1
    assert sum(asked_left) < sum(asked_all)
    if method == "greedy":
        assert [image[0] for image in spelt(left)] == [[*sentence, END] for sentence in sentences]
