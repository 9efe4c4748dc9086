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
from model.training.caption_words import Words, ended, one_of_each, some_of_each, trimmed
from model.training.features import Features, Images
from model.training.reward import Reward
from model.training.teacher_forcing import forced_loss, next_words, word_log_probabilities
from model.training.train_options import SMALLEST_CROP
from model.vocabulary import START

Tensor = Any
Batch = tuple[npt.NDArray[Any], ...]
# (inputs of a learner, uniforms float32[B, K, T]) -> words int32[B, K, T], sampled from the decoder
Draw = Callable[[Tensor, Tensor], Tensor]
_UNLIKELY = -5.0  # log-probability of a word


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
        logits, said, places = next_words(self.decoder, drawn, features)
        log_probabilities, _ = word_log_probabilities(logits, said)
        advantages = ops.take(ops.reshape(advantages, (-1,)), places[:, 0] * drawn.shape[1] + places[:, 1])
        # Words that dropout made unlikely are not made less likely still: that never ends and would dominate the loss.
        kept = ops.cast(ops.logical_or(advantages > 0, log_probabilities > _UNLIKELY), "float32")
        reward = ops.sum(advantages * log_probabilities * kept) / ops.maximum(ops.sum(kept), 1.0)
        forced = forced_loss(self.decoder, features, words, self._label_smoothing) if self._forcing else 0.0
        return self._forcing * forced - (1.0 - self._forcing) * reward
