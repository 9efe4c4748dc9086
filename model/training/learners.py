"""Three training methods: the decoder alone, with the backbone, and with rewards of the decoder's own captions.

Dimensions: N images, B images of a batch, K captions for each image, T words, V words of the vocabulary, S pixels a
side, L grid positions, C channels, U units.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras import ops

from model.network import Decoder, Encoder
from model.training.augment import augment
from model.training.features import Features, Images
from model.training.reward import Caption, Reward
from model.training.train_options import SMALLEST_CROP
from model.vocabulary import END, PAD, START

Tensor = Any
Words = npt.NDArray[np.int32]
Batch = tuple[npt.NDArray[Any], ...]
# (inputs of a learner, uniforms float32[B, K, T]) -> words int32[B, K, T], sampled from the decoder
Draw = Callable[[Tensor, Tensor], Tensor]
_UNLIKELY = -5.0  # log-probability of a word
_LENGTH_STEP = 4  # captions are padded to a multiple of it, since TensorFlow traces a graph for each length


class Learner(abc.ABC):
    """The variables to train, their training data and the loss.

    Args:
      encoder: the network's encoder.
      decoder: the network's decoder.
      words: int32[N, K, T + 2], the human captions: `<start>` ... `<end>`, padded.
    """

    backbone_variables: Sequence[keras.Variable] = ()

    def __init__(self, encoder: Encoder, decoder: Decoder, words: Words) -> None:
        self.encoder = encoder
        self.decoder = decoder
        self.words = words

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """The variables that the optimizers change."""
        layers = (self.encoder.projection, self.decoder)
        return [v for layer in layers for v in layer.trainable_variables] + list(self.backbone_variables)

    @property
    def variables(self) -> list[keras.Variable]:
        """The variables that a checkpoint needs."""
        layers = (self.encoder.projection, self.decoder)
        return [v for layer in layers for v in layer.variables] + list(self.backbone_variables)

    def steps(self, batch_size: int) -> int:
        """Steps for each epoch; a smaller last batch is dropped, with other images in each epoch."""
        return max(1, len(self.words) // batch_size)

    def batches(self, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
        """Yields batches of all images in random order."""
        batch_size = min(batch_size, len(self.words))
        order = rng.permutation(len(self.words))
        for start in range(0, len(order) - batch_size + 1, batch_size):
            yield self.batch(np.sort(order[start : start + batch_size]), rng)

    def progress(self) -> str:
        """Text to append to the progress line."""
        return ""

    @abc.abstractmethod
    def batch(self, chosen: npt.NDArray[np.int64], rng: np.random.Generator) -> Batch:
        """The arrays of a step for the images numbered `chosen`: int64[B]."""

    @abc.abstractmethod
    def features(self, inputs: Tensor) -> Tensor:
        """The decoder's features float32[B, L, U], from the first array of a batch."""

    @abc.abstractmethod
    def loss(self, *batch: Tensor) -> Tensor:
        """The loss of a batch: float32[]."""


class FrozenBackbone(Learner):
    """Trains projection and decoder by teacher forcing, on features that were computed once.

    Args:
      features: float16[N, F, L, C], of F views of each image.
      label_smoothing: see `TrainingOptions`.
      captions: of each photograph in a step, drawn at random; 0 takes all.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        words: Words,
        features: Features,
        label_smoothing: float,
        captions: int = 0,
    ) -> None:
        if captions < 0:
            raise ValueError(f"captions_per_step must be 0 (all) or more, not {captions}")
        super().__init__(encoder, decoder, words)
        self._features = features
        self._captions = captions
        self._label_smoothing = label_smoothing

    def batch(self, chosen: npt.NDArray[np.int64], rng: np.random.Generator) -> Batch:
        views = rng.integers(self._features.shape[1], size=len(chosen))
        return self._features[chosen, views], trimmed(some_of_each(self.words[chosen], self._captions, rng))

    def features(self, inputs: Tensor) -> Tensor:
        return self.encoder.project(inputs)

    def loss(self, *batch: Tensor) -> Tensor:
        grid, words = batch
        return forced_loss(self.decoder, self.features(grid), words, self._label_smoothing)


class FineTuning(Learner):
    """Also trains the upper layers of the backbone, on randomly augmented images.

    Batch normalization keeps its statistics, since batches are too small to measure them.

    Args:
      images: uint8[N, S', S', 3], with S' a little larger than S.
      share: the share of the backbone's layers with weights that is trained, from the top, 0 to 1.
      label_smoothing: see `TrainingOptions`.
      smallest_crop: see `model.training.augment.augment`.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        words: Words,
        images: Images,
        share: float,
        label_smoothing: float,
        smallest_crop: float = SMALLEST_CROP,
    ) -> None:
        super().__init__(encoder, decoder, words)
        self._images = images
        self._smallest_crop = smallest_crop
        self._label_smoothing = label_smoothing
        layers = [layer for layer in encoder.backbone.layers if layer.trainable_variables]
        tuned = layers[len(layers) - round(share * len(layers)) :]
        self.backbone_variables = [variable for layer in tuned for variable in layer.trainable_variables]

    def batch(self, chosen: npt.NDArray[np.int64], rng: np.random.Generator) -> Batch:
        size = self.encoder.backbone.input_shape[1]
        return augment(self._images[chosen], size, rng, self._smallest_crop), trimmed(self.words[chosen])

    def features(self, inputs: Tensor) -> Tensor:
        return self.encoder(inputs)

    def loss(self, *batch: Tensor) -> Tensor:
        images, words = batch
        return forced_loss(self.decoder, self.features(images), words, self._label_smoothing)


class SelfCritical(Learner):
    """Makes sampled captions likelier, the more their reward exceeds that of the image's other captions.

    S. Rennie et al. (2017), "Self-critical Sequence Training for Image Captioning"; the baseline of a caption is the
    mean reward of the other captions drawn for the same image (R. Luo 2020, "A Better Variant of Self-Critical
    Sequence Training"). Teacher forcing on one human caption of each image is mixed in, which keeps the language
    varied.

    Args:
      base: the learner that provides the images or features and the encoder's trained variables.
      draw: samples captions from the current decoder.
      forcing: weight of teacher forcing in the loss, 0 to 1.
      captions: number of captions to sample for each image.
      label_smoothing: of teacher forcing.
      reward: the reward of the captions of a batch, for images by their numbers.
    """

    def __init__(
        self,
        base: FrozenBackbone | FineTuning,
        draw: Draw,
        forcing: float,
        captions: int,
        label_smoothing: float,
        reward: Reward,
    ) -> None:
        if captions < 2:
            raise ValueError(f"samples must be a whole number from 2, not {captions}: each is compared with the others")
        super().__init__(base.encoder, base.decoder, base.words)
        self.backbone_variables = base.backbone_variables
        self._base = base
        self._draw = draw
        self._forcing = forcing
        self._captions = captions
        self._label_smoothing = label_smoothing
        self._reward = reward
        self._rewards: list[float] = []

    def progress(self) -> str:
        return f"  reward {np.mean(self._rewards[-50:]):.2f}"

    def batch(self, chosen: npt.NDArray[np.int64], rng: np.random.Generator) -> Batch:
        inputs, words = self._base.batch(chosen, rng)
        uniforms = rng.random((len(chosen), self._captions, self.words.shape[2] - 2), np.float32)
        drawn = np.asarray(self._draw(tf.convert_to_tensor(inputs), tf.convert_to_tensor(uniforms)))
        drawn = np.pad(drawn, ((0, 0), (0, 0), (1, 1)))
        drawn[..., 0] = START
        captions = [[ended(row) for row in rows] for rows in drawn]
        rewards = np.array(self._reward(chosen.tolist(), captions), np.float32)
        self._rewards.append(float(rewards.mean()))
        others = (rewards.sum(axis=1, keepdims=True) - rewards) / (self._captions - 1)
        return inputs, one_of_each(words, rng), trimmed(drawn), rewards - others

    def features(self, inputs: Tensor) -> Tensor:
        return self._base.features(inputs)

    def loss(self, *batch: Tensor) -> Tensor:
        inputs, words, drawn, advantages = batch
        features = self.features(inputs)
        logits, said, places = _next_words(self.decoder, drawn, features)
        log_probabilities, _ = _of_words(logits, said)
        advantages = ops.take(ops.reshape(advantages, (-1,)), places[:, 0] * drawn.shape[1] + places[:, 1])
        # Words that dropout made unlikely are not made less likely still: that never ends and would dominate the loss.
        kept = ops.cast(ops.logical_or(advantages > 0, log_probabilities > _UNLIKELY), "float32")
        reward = ops.sum(advantages * log_probabilities * kept) / ops.maximum(ops.sum(kept), 1.0)
        forced = forced_loss(self.decoder, features, words, self._label_smoothing) if self._forcing else 0.0
        return self._forcing * forced - (1.0 - self._forcing) * reward


def references(words: Words) -> list[list[Caption]]:
    """The human captions in the form that rewards take, from int32[N, K, T + 2]."""
    return [[ended(row) for row in rows if row[0] == START] for rows in words]


def trimmed(words: Words) -> Words:
    """Removes columns that are padding in all captions: int32[B, K, T'] -> int32[B, K, T]."""
    longest = int(np.count_nonzero(words, axis=-1).max())
    return words[..., : min(words.shape[-1], -(-longest // _LENGTH_STEP) * _LENGTH_STEP)]


def one_of_each(words: Words, rng: np.random.Generator) -> Words:
    """Chooses a random caption of each image: int32[B, K, T] -> int32[B, 1, T]."""
    captions = np.count_nonzero(words[..., 0], axis=1)  # the rest is padding
    chosen = rng.integers(np.maximum(captions, 1))
    return trimmed(words[np.arange(len(words)), chosen][:, None])


def some_of_each(words: Words, count: int, rng: np.random.Generator) -> Words:
    """`count` captions of each photograph, drawn at random, 0 for all: int32[B, K, T] -> int32[B, count, T]."""
    if not 0 < count < words.shape[1]:
        return words
    keys = rng.random(words.shape[:2]) + (words[..., 0] == PAD)  # padding comes last
    chosen = np.argsort(keys, axis=1)[:, :count]
    return np.take_along_axis(words, chosen[..., None], axis=1)


def ended(words: Words) -> tuple[int, ...]:
    """The words after `<start>` up to `<end>`, which counts as a word: rewards include where a caption ends."""
    said = [int(word) for word in words[1:] if word != PAD]
    return tuple(said[: said.index(END) + 1] if END in said else said)


def forced_loss(decoder: Decoder, features: Tensor, words: Tensor, label_smoothing: float) -> Tensor:
    """Cross-entropy of the next words of human captions: float32[B, L, U], int32[B, K, T] -> float32[]."""
    logits, said, _ = _next_words(decoder, words, features)
    return cross_entropy(said, logits, label_smoothing)


def cross_entropy(words: Tensor, logits: Tensor, label_smoothing: float) -> Tensor:
    """Mean over W words: int32[W], logits float32[W, V] -> float32[]."""
    said, normalizer = _of_words(logits, words)
    spread = ops.mean(logits, axis=-1) - normalizer
    return -ops.mean((1 - label_smoothing) * said + label_smoothing * spread)


def _next_words(decoder: Decoder, words: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Teacher forcing at the W positions that are not padding.

    Returns:
      logits float32[W, V], the words int32[W] at these positions, and the positions int32[W, 3] in [B, K, T].
    """
    said = words[..., 1:]
    places = ops.cast(ops.stack(ops.nonzero(ops.not_equal(said, PAD)), axis=-1), "int32")
    joined = tf.gather_nd(decoder.joined(words[..., :-1], features, training=True), places)
    return ops.cast(decoder.to_vocabulary(joined), "float32"), tf.gather_nd(said, places), places


def _of_words(logits: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of `words`, and the normalizers of the logits: float32[W, V], int32[W] -> float32[W] both."""
    # Not log_softmax: on a CPU, each pass over V words for all positions is expensive.
    normalizer = ops.logsumexp(logits, axis=-1)
    said = ops.take_along_axis(logits, words[:, None], axis=-1)[:, 0]
    return said - normalizer, normalizer
