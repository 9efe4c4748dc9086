"""Shapes with a different prime for every dimension, and the decoder's two ways against each other."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from model.backbones import BACKBONES, BackboneError, backbone_named
from model.config import CaptionerConfig
from model.network import Decoder, Encoder, build_network, named_variables

B, L, U, E, K, T, V = 2, 7, 13, 11, 3, 5, 17
CONFIG = CaptionerConfig("efficientnet_lite0", input_size=67, units=U, embedding_units=E, max_words=T)


def features_and_words() -> tuple[tf.Tensor, tf.Tensor]:
    rng = np.random.default_rng(0)
    return tf.constant(rng.random((B, L, U)), tf.float32), tf.constant(rng.integers(0, V, (B, K, T)), tf.int32)


@pytest.fixture(params=["zeros", "mean_feature"])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return Decoder(dataclasses.replace(CONFIG, initial_state=request.param), V)


def test_teacher_forcing_gives_a_distribution_for_each_word(decoder: Decoder) -> None:
    features, words = features_and_words()
    assert decoder(words, features).shape == (B, K, T, V)


def test_a_step_gives_a_distribution_and_a_state(decoder: Decoder) -> None:
    features, words = features_and_words()
    state = decoder.initial_state(features, K)
    assert state.shape == (B, K, U)
    logits, state = decoder.step(words[:, :, 0], state, features)
    assert logits.shape == (B, K, V)
    assert state.shape == (B, K, U)


def test_steps_say_what_teacher_forcing_says(decoder: Decoder) -> None:
    features, words = features_and_words()
    forced = decoder(words, features)
    state = decoder.initial_state(features, K)
    for number in range(T):
        logits, state = decoder.step(words[:, :, number], state, features)
        np.testing.assert_allclose(logits, forced[:, :, number], rtol=1e-4, atol=1e-5)


def test_first_state_is_zero_or_from_the_mean_feature() -> None:
    features, _ = features_and_words()
    zeros = Decoder(dataclasses.replace(CONFIG, initial_state="zeros"), V).initial_state(features, K)
    assert not np.any(zeros)
    of_mean = Decoder(dataclasses.replace(CONFIG, initial_state="mean_feature"), V)
    turned = tf.reverse(features, axis=[1])  # another order of the positions has the same mean
    np.testing.assert_allclose(
        of_mean.initial_state(features, K), of_mean.initial_state(turned, K), rtol=1e-4, atol=1e-5
    )
    assert np.any(of_mean.initial_state(features, K))


def test_attention_looks_at_the_features() -> None:
    features, words = features_and_words()
    decoder = Decoder(dataclasses.replace(CONFIG, initial_state="zeros"), V)
    assert not np.allclose(decoder(words, features), decoder(words, tf.zeros_like(features)))


def test_encoder_gives_a_sequence_of_projected_features() -> None:
    encoder = Encoder(CONFIG)
    images = np.zeros((B, 67, 67, 3), np.uint8)
    assert encoder.grid(images).shape == (B, 9, 1280)  # 67 / 32 is 3 rounded up, and 3 x 3 positions
    encoded = encoder(images)
    assert encoded.shape == (B, 9, U)
    assert np.min(encoded) >= 0  # relu


@pytest.mark.parametrize(
    ("name", "grid"),
    [
        pytest.param("efficientnet_lite0", (7, 7, 1280), id="efficientnet_lite0"),
        pytest.param("efficientnet_lite2", (9, 9, 1280), id="efficientnet_lite2"),
        pytest.param("resnet50_v2", (7, 7, 2048), id="resnet50_v2"),
        pytest.param("efficientnet_v2_b0", (7, 7, 1280), id="efficientnet_v2_b0"),
    ],
)
def test_backbones_at_their_own_size(name: str, grid: tuple[int, ...]) -> None:
    backbone = backbone_named(name)
    assert backbone.build(backbone.input_size, None, False).output_shape == (None, *grid)


@pytest.mark.parametrize(
    ("name", "black", "white"),
    [
        pytest.param("efficientnet_lite0", -127 / 128, 1.0, id="efficientnet_lite0"),
        pytest.param("inception_resnet_v2", -1.0, 1.0, id="inception_resnet_v2"),
        pytest.param("resnet50_v2", -1.0, 1.0, id="resnet50_v2"),
        pytest.param("efficientnet_v2_b0", 0.0, 255.0, id="efficientnet_v2_b0"),
    ],
)
def test_pixels_reach_the_backbone_in_its_own_range(name: str, black: float, white: float) -> None:
    backbone = BACKBONES[name]
    assert 0 * backbone.scale + backbone.offset == pytest.approx(black)
    assert 255 * backbone.scale + backbone.offset == pytest.approx(white)


def test_the_encoder_applies_the_range() -> None:
    rescaled = Encoder(CONFIG).rescale(np.array([[[[0, 127, 255]]]], np.uint8))
    np.testing.assert_allclose(rescaled, [[[[-127 / 128, 0, 1]]]])


def test_unknown_backbone_names_those_there_are() -> None:
    with pytest.raises(BackboneError, match="'vgg'; choose from efficientnet_lite0,"):
        backbone_named("vgg")


def test_every_variable_has_one_name() -> None:
    encoder, decoder = build_network(CONFIG, V)
    named = named_variables(encoder, decoder)
    assert len({id(variable) for variable in named.values()}) == len(named)
    assert {name.rsplit("/", 1)[0] for name in named if name.startswith("decoder/")} == {
        f"decoder/{layer}" for layer in ("embedding", "gru", "normalization", "state_from_mean", "to_vocabulary")
    }
    assert sum(np.size(v) for v in named.values()) == encoder.count_params() + sum(
        np.size(weight) for weight in decoder.weights if "seed" not in weight.name
    )
