"""The decoder, beam search and sampling in NumPy against TensorFlow's, with small random networks."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from model.captioner import Captioner
from model.config import CaptionerConfig, Decoding
from model.network import Decoder
from model.numpy_beam import BeamSearch
from model.numpy_decoder import NumpyDecoder
from model.numpy_sampling import Sampling
from model.vocabulary import END, PAD, START, UNKNOWN, Vocabulary
from tests.model.given_encoder import GivenEncoder

WORDS, UNITS, PLACES, LONGEST = 13, 7, 5, 11


def no_encoder(_: object) -> None:
    """Takes the encoder's place where features are given."""


NO_ENCODER = GivenEncoder(no_encoder)


def networks(initial_state: str = "mean_feature", sharpness: float = 3.0) -> tuple[CaptionerConfig, Decoder]:
    config = CaptionerConfig(
        units=UNITS, embedding_units=3, max_words=LONGEST, initial_state=initial_state, length_penalty=1.2
    )
    decoder = Decoder(config, WORDS)
    decoder(np.ones((1, 1, 2), np.int32), np.ones((1, PLACES, UNITS), np.float32))
    rng = np.random.default_rng(3)
    for variable in decoder.variables:
        if "seed" not in variable.name:
            variable.assign(rng.normal(0, sharpness if "vocabulary" in variable.path else 1, variable.shape))
    return config, decoder


def arrays_of(decoder: Decoder) -> dict[str, np.ndarray]:
    layers = (
        decoder.embedding,
        decoder.gru,
        decoder.state_from_mean,
        decoder.normalization,
        decoder.to_vocabulary,
    )
    return {
        f"decoder/{layer.name}/{variable.name}": np.asarray(variable)
        for layer in layers
        if layer is not None
        for variable in layer.variables
        if "seed" not in variable.name
    }


FEATURES = np.random.default_rng(1).normal(0, 1, (17, PLACES, UNITS)).astype(np.float32)
VOCABULARY = Vocabulary(("<pad>", "<unk>", "<start>", "<end>", *(f"w{n}" for n in range(WORDS - 4))))


@pytest.mark.parametrize("initial_state", ["mean_feature", "zeros"])
@pytest.mark.parametrize(
    "decoding",
    [
        pytest.param(Decoding("greedy"), id="greedy"),
        pytest.param(Decoding(), id="beam"),
        pytest.param(Decoding(beam_width=5, num_captions=3, length_penalty=0.0), id="short ones first"),
        pytest.param(Decoding(beam_width=2, num_captions=2, no_repeat_ngram=0), id="repetition"),
        pytest.param(Decoding(beam_width=4, no_repeat_ngram=1), id="no word twice"),
        pytest.param(Decoding(beam_width=4, no_repeat_ngram=3, length_penalty=3.0), id="long ones first"),
        pytest.param(Decoding(beam_width=10, num_captions=6), id="wider than is scanned"),
    ],
)
def test_it_finds_what_tensorflow_finds(initial_state: str, decoding: Decoding) -> None:
    config, decoder = networks(initial_state)
    graph = Captioner(config, VOCABULARY, NO_ENCODER, decoder, decoding=decoding)
    kept = decoding.num_captions
    wanted = graph.caption_features(FEATURES)
    penalty = config.length_penalty if decoding.length_penalty is None else decoding.length_penalty
    width = max(decoding.beam_width, kept) if decoding.method == "beam" else 1
    search = BeamSearch(width, kept, LONGEST, penalty, decoding.no_repeat_ngram)
    words, totals = search(NumpyDecoder(arrays_of(decoder)), FEATURES)
    np.testing.assert_array_equal(words, np.asarray(wanted.words)[:, :kept])
    np.testing.assert_allclose(totals, np.asarray(wanted.log_probabilities)[:, :kept].sum(axis=-1), atol=1e-3)
    for size in (1, 4):  # the same alone and in other company
        parts = [search(NumpyDecoder(arrays_of(decoder)), FEATURES[n : n + size]) for n in range(0, 17, size)]
        np.testing.assert_array_equal(np.concatenate([part for part, _ in parts]), words)


@pytest.mark.parametrize(
    "decoding",
    [
        pytest.param(Decoding("sample", num_captions=3, top_k=4), id="of few words"),
        pytest.param(Decoding("sample", num_captions=2, top_k=WORDS, temperature=0.5), id="of all words"),
        pytest.param(Decoding("sample", num_captions=2, top_k=10, no_repeat_ngram=0), id="repetition"),
        pytest.param(Decoding("sample", num_captions=2, no_repeat_ngram=1), id="no word twice"),
    ],
)
def test_it_draws_what_tensorflow_draws(decoding: Decoding) -> None:
    config, decoder = networks(sharpness=1.0)
    drawn = np.random.default_rng(2).random((17, decoding.num_captions, LONGEST), np.float32)
    wanted = Captioner(config, VOCABULARY, NO_ENCODER, decoder, decoding=decoding).caption_features(FEATURES, drawn)
    sampling = Sampling(LONGEST, decoding.top_k, decoding.temperature, decoding.no_repeat_ngram)
    words, totals = sampling(NumpyDecoder(arrays_of(decoder)), FEATURES, drawn)
    np.testing.assert_array_equal(words, np.asarray(wanted.words))
    np.testing.assert_allclose(totals, np.asarray(wanted.log_probabilities).sum(axis=-1), atol=1e-3)
    assert len({tuple(caption) for captions in words.tolist() for caption in captions}) > 17
    for size in (1, 4):  # the same alone and in other company
        parts = [
            sampling(NumpyDecoder(arrays_of(decoder)), FEATURES[n : n + size], drawn[n : n + size])
            for n in range(0, 17, size)
        ]
        np.testing.assert_array_equal(np.concatenate([part for part, _ in parts]), words)


def test_words_that_come_once() -> None:
    config, decoder = networks()
    config = dataclasses.replace(config, content_words_once=True)
    wanted = Captioner(config, VOCABULARY, NO_ENCODER, decoder).caption_features(FEATURES)
    once = np.arange(WORDS) > END
    words, _ = BeamSearch(3, 1, LONGEST, config.length_penalty, 2, once)(NumpyDecoder(arrays_of(decoder)), FEATURES)
    np.testing.assert_array_equal(words, np.asarray(wanted.words)[:, :1])
    for caption in words[:, 0].tolist():
        said = [word for word in caption if word > END]
        assert len(set(said)) == len(said)


def told_to(say: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
    """What a network with these biases says."""
    _, decoder = networks()
    arrays = arrays_of(decoder)
    for word, bias in say.items():
        arrays["decoder/to_vocabulary/bias"][word] = bias
    return BeamSearch(3, 2, LONGEST, 1.2, 2)(NumpyDecoder(arrays), FEATURES)


def test_no_caption_is_empty_or_holds_a_special_word() -> None:
    words, _ = told_to(dict.fromkeys((PAD, UNKNOWN, START, END), 90.0))
    assert (words[..., 0] > END).all()
    assert (words[..., 1] == END).all()
    assert (words[..., 2:] == PAD).all()


def test_a_network_in_love_with_one_word_does_not_say_it_twice_in_a_row() -> None:
    words, _ = told_to({5: 90.0, END: -90.0})
    for caption in words.reshape(-1, LONGEST).tolist():
        pairs = [*itertools.pairwise(caption)]
        assert (5, 5) not in pairs
        assert len(set(pairs)) == len(pairs)


def test_a_network_without_numbers_gives_scores_without_numbers() -> None:
    _, totals = told_to(dict.fromkeys(range(WORDS), float("nan")))
    assert not np.isfinite(totals).any()
