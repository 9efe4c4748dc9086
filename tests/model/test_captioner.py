"""The captioner as a whole, on photographs, with the model that ships."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from model import Decoding, load_captioner, load_image, pad_batch
from model.captioner import Captioner
from model.vocabulary import END, PAD, START, UNKNOWN

METHODS = [
    pytest.param(Decoding("greedy"), id="greedy"),
    pytest.param(Decoding("beam", num_captions=2), id="beam"),
    pytest.param(Decoding("sample", num_captions=2, seed=5), id="sample"),
]


@pytest.fixture(scope="module")
def images(photographs) -> np.ndarray:
    size = load_captioner().input_size
    return np.stack([load_image(path.read_bytes(), size).pixels for path in photographs.values()])


@pytest.mark.parametrize("decoding", METHODS)
def test_captions_do_not_depend_on_batch_size_or_neighbours(decoding: Decoding, images: np.ndarray) -> None:
    captioner = load_captioner(decoding=decoding)
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


def test_images_may_lie_anywhere_in_memory(tiny_bundle) -> None:
    """TensorFlow reads them in place where it can; it would crash on memory that is not aligned."""
    captioner = load_captioner(tiny_bundle)
    batch = pad_batch([*np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)], 3)
    shifted = np.zeros(batch.nbytes + 1, np.uint8)[1:].reshape(batch.shape)
    shifted[:] = batch
    unwritable = batch.copy()
    unwritable.flags.writeable = False
    said = captioner.caption(batch)
    for same in (shifted, unwritable, batch[::-1][::-1], np.asfortranarray(batch)):
        assert captioner.caption(same) == said


def test_captions_are_words_of_the_vocabulary_with_a_mean_log_probability(images: np.ndarray) -> None:
    captioner = load_captioner()
    for [caption] in captioner.caption(images):
        words = caption.text.split()
        assert 3 <= len(words) <= captioner.config.max_words
        assert set(words) <= set(captioner.vocabulary.words[4:])
        assert -5 < caption.score < 0


@pytest.mark.parametrize("decoding", METHODS)
def test_no_caption_is_empty_or_holds_a_special_word(decoding: Decoding, tiny_bundle) -> None:
    """A network that wants nothing but to end, or to say that it knows no word."""
    captioner = load_captioner(tiny_bundle, decoding)
    bias = np.zeros(len(captioner.vocabulary), np.float32)
    bias[[PAD, UNKNOWN, START, END]] = 50
    captioner.decoder.to_vocabulary.bias.assign(bias)
    for captions in captioner.caption(np.zeros((3, 64, 64, 3), np.uint8)):
        for caption in captions:
            assert len(caption.text.split()) == 1


@pytest.fixture(scope="module")
def tiny(tiny_bundle) -> Captioner:
    return load_captioner(tiny_bundle)


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


def test_beam_search_offers_different_captions(images: np.ndarray) -> None:
    captioner = load_captioner(decoding=Decoding(num_captions=4))
    for captions in captioner.caption(images):
        assert len({caption.text for caption in captions}) == 4


def test_samples_change_with_the_seed_and_come_best_first(images: np.ndarray) -> None:
    def sampled(seed: int) -> list[list[str]]:
        captioner = load_captioner(decoding=Decoding("sample", num_captions=3, seed=seed))
        found = captioner.caption(images)
        for captions in found:
            assert list(captions) == sorted(captions, key=lambda caption: -caption.score)
        return [[caption.text for caption in captions] for captions in found]

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)


@pytest.mark.parametrize(
    "images",
    [
        pytest.param(np.zeros((1, 256, 256, 3), np.float32), id="floats"),
        pytest.param(np.zeros((256, 256, 3), np.uint8), id="no batch"),
        pytest.param(np.zeros((1, 299, 299, 3), np.uint8), id="another size"),
    ],
)
def test_refuses_other_arrays(images: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected uint8\[B, 256, 256, 3\], got"):
        load_captioner().caption(images)


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
