"""The encoder and the decoder of Google's course "Create Image Captioning Models", in Keras 3.

Dimensions: B images, S pixels a side, L grid positions, C backbone channels, U units, K captions for each image,
T words, V words of the vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from keras import layers, ops

from model.backbones import backbone_named, build_backbone
from model.config import CaptionerConfig

Tensor = Any  # a tensor of Keras's backend
BACKBONE_PREFIX = "encoder/backbone/"


class Encoder(layers.Layer):
    """Images to features, uint8[B, S, S, 3] -> float32[B, L, U]: backbone, grid to sequence, Dense(relu).

    Args:
      config: the architecture.
      backbone_weights: None for random weights, "imagenet" for weights that Keras downloads.
      precision: "float32", "float16" or "bfloat16", of its computations; its variables and features are float32.
    """

    def __init__(
        self, config: CaptionerConfig, backbone_weights: str | None = None, precision: str = "float32"
    ) -> None:
        with _dtype_policy(precision):
            super().__init__(name="encoder")
            self.int8 = config.int8
            backbone = backbone_named(config.backbone)
            self.rescale = layers.Rescaling(backbone.scale, backbone.offset, name="rescale")
            self.backbone = build_backbone(backbone, config.input_size, backbone_weights, config.int8)
            self.to_sequence = layers.Reshape((-1, self.backbone.output_shape[-1]), name="to_sequence")
            self.projection = layers.Dense(config.units, activation="relu", name="projection")

    def grid(self, images: Tensor, training: bool = False) -> Tensor:
        """The backbone's features: uint8[B, S, S, 3] -> float32[B, L, C]."""
        return self.to_sequence(self.backbone(self.rescale(images), training=training))

    def project(self, grid: Tensor) -> Tensor:
        """The features for the decoder: [B, L, C] of any float dtype -> float32[B, L, U]."""
        return ops.cast(self.projection(ops.cast(grid, self.compute_dtype)), "float32")

    def call(self, images: Tensor, training: bool = False) -> Tensor:
        return self.project(self.grid(images, training=training))


class Decoder(layers.Layer):
    """Predicts the next word from words and features: Embedding, GRU, Attention, Add, LayerNormalization, Dense.

    `call` is teacher forcing over whole captions; `step` computes one word of the decoding loop, with explicit state.
    Both handle the K captions of an image together: their GRU outputs are queries on one sequence of features, so
    features are never repeated.

    Args:
      config: the architecture.
      vocabulary_size: V.
      precision: of its computations in training; its variables, states and the logits of a step are float32.
    """

    def __init__(self, config: CaptionerConfig, vocabulary_size: int, precision: str = "float32") -> None:
        with _dtype_policy(precision):
            super().__init__(name="decoder")
            self._build_layers(config, vocabulary_size)

    def _build_layers(self, config: CaptionerConfig, vocabulary_size: int) -> None:
        self.units = config.units
        self.embedding = layers.Embedding(vocabulary_size, config.embedding_units, name="embedding")
        self.embedding_dropout = layers.Dropout(config.dropout)
        self.gru = layers.GRU(config.units, return_sequences=True, return_state=True, name="gru")
        self.attention = layers.Attention(name="attention")
        self.add = layers.Add(name="add")
        self.normalization = layers.LayerNormalization(name="normalization")
        self.output_dropout = layers.Dropout(config.dropout)
        self.to_vocabulary = layers.Dense(vocabulary_size, name="to_vocabulary")
        self.state_from_mean = (
            layers.Dense(config.units, activation="tanh", name="state_from_mean")
            if config.initial_state == "mean_feature"
            else None
        )

    def initial_state(self, features: Tensor, captions: int) -> Tensor:
        """The GRU's initial state: float32[B, L, U] -> float32[B, K, U], the same for all K captions."""
        mean = ops.mean(features, axis=1)
        state = ops.zeros_like(mean) if self.state_from_mean is None else self.state_from_mean(mean)
        return ops.repeat(ops.cast(state, "float32")[:, None, :], captions, axis=1)

    def call(self, words: Tensor, features: Tensor, training: bool = False) -> Tensor:
        """Teacher forcing: int32[B, K, T], float32[B, L, U] -> logits float32[B, K, T, V]."""
        return self.to_vocabulary(self.joined(words, features, training))

    def joined(self, words: Tensor, features: Tensor, training: bool = False) -> Tensor:
        """The input of `to_vocabulary`: int32[B, K, T], float32[B, L, U] -> float[B, K, T, U].

        If only some positions matter, apply `to_vocabulary` to them alone: the last layer is the most expensive.
        """
        captions, length = words.shape[1], words.shape[2]
        joined = self._joined(self._queries(words, features, training), features, training)
        return ops.reshape(joined, (-1, captions, length, self.units))

    def attention_weights(self, words: Tensor, features: Tensor) -> Tensor:
        """The attention weights for each next word: int32[B, K, T], float32[B, L, U] -> float32[B, K, T, L].

        They are those of `call`, at least 0, and add up to 1 over the L positions.
        """
        captions, length = words.shape[1], words.shape[2]
        queries = self._queries(words, features, training=False)
        _, weights = self.attention([queries, features], return_attention_scores=True)
        return ops.reshape(weights, (-1, captions, length, weights.shape[-1]))

    def _queries(self, words: Tensor, features: Tensor, training: bool) -> Tensor:
        """GRU outputs for given words: int32[B, K, T], float32[B, L, U] -> float32[B, K * T, U]."""
        captions, length = words.shape[1], words.shape[2]
        embedded = self.embedding_dropout(self.embedding(words), training=training)
        embedded = ops.reshape(embedded, (-1, length, embedded.shape[-1]))
        state = ops.reshape(self.initial_state(features, captions), (-1, self.units))
        outputs, _ = self.gru(embedded, initial_state=state, training=training)
        return ops.reshape(outputs, (-1, captions * length, self.units))

    def step(self, words: Tensor, state: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """One inference step: int32[B, K], float32[B, K, U], float32[B, L, U] -> logits float32[B, K, V], state."""
        captions = words.shape[1]
        embedded = ops.reshape(self.embedding(words), (-1, self.embedding.output_dim))
        output, [state] = self.gru.cell(embedded, [ops.reshape(state, (-1, self.units))])
        queries = ops.reshape(output, (-1, captions, self.units))
        logits = ops.cast(self.to_vocabulary(self._joined(queries, features)), "float32")
        return logits, ops.cast(ops.reshape(state, (-1, captions, self.units)), "float32")

    def _joined(self, queries: Tensor, features: Tensor, training: bool = False) -> Tensor:
        """GRU outputs float32[B, Q, U] joined with their attention contexts: float32[B, Q, U]."""
        context = self.attention([queries, features])
        joined = self.normalization(self.add([queries, context]))  # the skip connection
        return self.output_dropout(joined, training=training)


@contextlib.contextmanager
def _dtype_policy(precision: str) -> Iterator[None]:
    """Sets Keras's default precision for layers that are created within it; Keras's applications take no dtype."""
    if precision == "float32":
        yield
        return
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(f"mixed_{precision}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def build_network(
    config: CaptionerConfig,
    vocabulary_size: int,
    backbone_weights: str | None = None,
    precision: str = "float32",
    decoder_precision: str = "float32",
) -> tuple[Encoder, Decoder]:
    """Creates an encoder and a decoder with all their variables.

    Args:
      config: the architecture.
      vocabulary_size: V.
      backbone_weights: None for random weights, "imagenet" for weights that Keras downloads.
      precision: the encoder's.
      decoder_precision: the decoder's; "float32" except in training.
    """
    encoder = Encoder(config, backbone_weights, precision)
    decoder = Decoder(config, vocabulary_size, decoder_precision)
    _, height, width, channels = encoder.backbone.output_shape
    words = keras.Input((1, config.max_words + 1), dtype="int32")
    decoder(words, encoder.project(keras.Input((height * width, channels))))
    encoder.built = True  # else Keras would run the whole backbone symbolically, only to create no more variables
    return encoder, decoder


def named_backbone_variables(encoder: Encoder) -> dict[str, keras.Variable]:
    """The backbone's variables as `layer number/variable`, since Keras generates some layers' names in each process."""
    weights = [_weights(layer) for layer in encoder.backbone.layers]
    return {
        f"{number:03d}/{variable.name}": variable
        for number, variables in enumerate(filter(None, weights))
        for variable in variables
    }


def named_variables(encoder: Encoder, decoder: Decoder) -> dict[str, keras.Variable]:
    """All variables of a captioner by their names in a bundle."""
    named = {f"{BACKBONE_PREFIX}{name}": variable for name, variable in named_backbone_variables(encoder).items()}
    named |= {f"encoder/projection/{variable.name}": variable for variable in encoder.projection.variables}
    for layer in (
        decoder.embedding,
        decoder.gru,
        decoder.state_from_mean,
        decoder.normalization,
        decoder.to_vocabulary,
    ):
        if layer is not None:
            named |= {f"decoder/{layer.name}/{variable.name}": variable for variable in _weights(layer)}
    return named


def _weights(layer: layers.Layer) -> list[keras.Variable]:
    # Keras also lists the seeds of dropout as variables.
    return [variable for variable in layer.variables if "seed" not in variable.name]
