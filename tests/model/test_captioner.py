"""The captioner as a whole, on photographs, with the bundled model."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from model import DEFAULT_BUNDLE, Decoding, load_captioner, load_image, pad_batch
from model.bundle import load_config
from model.captioner import Captioner
from model.vocabulary import END, PAD, START, UNKNOWN
from tests.model.given_encoder import GivenEncoder

METHODS = {
    "greedy": Decoding("greedy"),
    "beam": Decoding("beam", beam_width=4, num_captions=3),
    "sample": Decoding("sample", num_captions=2, seed=5),
}


@pytest.fixture(scope="module")
def images(photographs) -> np.ndarray:
    size = load_config(DEFAULT_BUNDLE).input_size
    return np.stack([load_image(path.read_bytes(), size).pixels for path in photographs.values()])


@pytest.fixture(scope="module")
def shipped() -> Callable[[Decoding], Captioner]:
    """The model that ships with any decoding; the encoder is traced once for all, and each loop once."""
    made = load_captioner()
    graph = tf.function(made.encoder, autograph=False, reduce_retracing=True)
    parts = (made.config, made.vocabulary, GivenEncoder(graph), made.decoder)
    return functools.cache(
        lambda decoding: Captioner(
            *parts,
            decoding=decoding,
        )
    )


@pytest.mark.parametrize("method", METHODS)
def test_captions_do_not_depend_on_batch_size_or_neighbours(method: str, shipped, images: np.ndarray) -> None:
    captioner = shipped(METHODS[method])
    alone = [captioner.caption(image[None])[0] for image in images]
    together = captioner.caption(images)
    reversed_and_padded = captioner.caption(pad_batch(images[::-1], 11))[: len(images)][::-1]
    for others in (together, reversed_and_padded):
        assert [[c.text for c in captions] for captions in others] == [[c.text for c in captions] for captions in alone]
        np.testing.assert_allclose(
            [[c.score for c in captions] for captions in others],
            [[c.score for c in captions] for captions in alone],
            atol=1e-4,
        )


def test_captions_are_words_of_the_vocabulary_with_a_mean_log_probability(shipped, images: np.ndarray) -> None:
    captioner = shipped(METHODS["beam"])
    for captions in captioner.caption(images):
        assert len({caption.text for caption in captions}) == 3
        words = captions[0].text.split()
        assert 3 <= len(words) <= captioner.config.max_words
        assert set(words) <= set(captioner.vocabulary.words[4:])
        assert -5 < captions[0].score < 0


def test_samples_change_with_the_seed_and_come_best_first(shipped, images: np.ndarray) -> None:
    first, other = (shipped(replace(METHODS["sample"], seed=seed)).caption(images) for seed in (5, 6))
    assert [[caption.text for caption in captions] for captions in first] != [
        [caption.text for caption in captions] for captions in other
    ]
    for captions in (*first, *other):
        assert list(captions) == sorted(captions, key=lambda caption: -caption.score)


@pytest.fixture(scope="module")
def loaded(tiny_bundle: Path) -> Captioner:
    return load_captioner(tiny_bundle)


@pytest.fixture
def tiny(loaded: Captioner) -> Iterator[Captioner]:
    """A captioner whose bias a test may change."""
    before = loaded.decoder.to_vocabulary.bias.numpy()
    yield loaded
    loaded.decoder.to_vocabulary.bias.assign(before)


def test_images_may_lie_anywhere_in_memory(tiny: Captioner) -> None:
    """TensorFlow reads them in place where it can; it would crash on memory that is not aligned."""
    batch = pad_batch([*np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)], 3)
    shifted = np.zeros(batch.nbytes + 1, np.uint8)[1:].reshape(batch.shape)
    shifted[:] = batch
    unwritable = batch.copy()
    unwritable.flags.writeable = False
    said = tiny.caption(batch)
    for same in (shifted, unwritable, batch[::-1][::-1], np.asfortranarray(batch)):
        assert tiny.caption(same) == said


@pytest.mark.parametrize("method", METHODS)
def test_no_caption_is_empty_or_holds_a_special_word(method: str, tiny: Captioner) -> None:
    """A network that wants nothing but to end, or to say that it knows no word."""
    nothing = GivenEncoder(lambda _: tf.zeros((3, 4, tiny.config.units)))
    parts = (tiny.config, tiny.vocabulary, nothing, tiny.decoder)
    captioner = Captioner(*parts, decoding=METHODS[method])
    bias = np.zeros(len(captioner.vocabulary), np.float32)
    bias[[PAD, UNKNOWN, START, END]] = 50
    captioner.decoder.to_vocabulary.bias.assign(bias)
    for captions in captioner.caption(np.zeros((3, 64, 64, 3), np.uint8)):
        for caption in captions:
            assert len(caption.text.split()) == 1


def test_a_network_in_love_with_one_word_does_not_say_it_twice_in_a_row(tiny: Captioner) -> None:
    bias = np.zeros(len(tiny.vocabulary), np.float32)
    bias[5], bias[END] = 50, -50  # "dog", on and on
    tiny.decoder.to_vocabulary.bias.assign(bias)
    for [caption] in tiny.caption(np.zeros((2, 64, 64, 3), np.uint8)):
        words = caption.text.split()
        pairs = [*itertools.pairwise(words)]
        assert words.count("dog") == 3
        assert all(word != following for word, following in pairs)
        assert len(set(pairs)) == len(pairs) == 4


def test_a_network_without_numbers_gives_scores_without_numbers(tiny: Captioner) -> None:
    tiny.decoder.to_vocabulary.bias.assign(np.full(len(tiny.vocabulary), np.nan, np.float32))
    for [caption] in tiny.caption(np.zeros((3, 64, 64, 3), np.uint8)):
        assert not np.isfinite(caption.score)


@pytest.mark.parametrize(
    "images",
    [
        pytest.param(np.zeros((1, 64, 64, 3), np.float32), id="floats"),
        pytest.param(np.zeros((64, 64, 3), np.uint8), id="no batch"),
        pytest.param(np.zeros((1, 67, 67, 3), np.uint8), id="another size"),
    ],
)
def test_refuses_other_arrays(images: np.ndarray, tiny: Captioner) -> None:
    with pytest.raises(ValueError, match=r"expected uint8\[B, 64, 64, 3\], got"):
        tiny.caption(images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"method": "best"}, "must be one of beam, greedy, sample, not 'best'", id="method"),
        pytest.param({"beam_width": 0}, "beam_width must be a whole number from 1, not 0", id="beam width"),
        pytest.param({"method": "greedy", "num_captions": 2}, "greedy decoding gives one caption", id="greedy twice"),
        pytest.param({"temperature": 0.0}, "temperature must be above 0", id="temperature"),
        pytest.param({"length_penalty": -1.0}, "length_penalty must be from 0 to 10", id="length penalty"),
        pytest.param({"no_repeat_ngram": -1}, "no_repeat_ngram must be at least 0, not -1", id="repetition"),
        pytest.param({"seed": -1}, "seed must be at least 0", id="seed"),
    ],
)
def test_decoding_is_checked_when_made(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Decoding(**options)
