"""Captions images with the network, the vocabulary and a decoding loop, in one compiled function of TensorFlow.

On a CPU, `model.cpu_captioner` gives the same captions in less time, without TensorFlow.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from model import search
from model.caption import Caption, best_first, captions_from, check_images, uniforms
from model.config import CaptionerConfig, Decoding
from model.decoding_loop import Hypotheses, Step, StepForImages
from model.english import content_words
from model.network import Decoder, Encoder
from model.preprocessing import ALIGNMENT
from model.vocabulary import END, PAD, START, UNKNOWN, Vocabulary

Tensor = Any
Encode = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
_NEVER_WRITTEN = (PAD, UNKNOWN, START)


class Captioner:
    """Captions batches of images; `model.bundle.load_captioner` creates one from a bundle.

    Args:
      config: the architecture.
      vocabulary: the words of captions.
      encoder: uint8[B, S, S, 3] -> float32[B, L, U].
      decoder: its `step` computes the logits of the next word.
      version: identifies the weights, as in the column `model_version`.
      decoding: how captions are decoded; `Decoding()` by default.
      engine: "tensorflow", or "xla", which compiles encoder and decoding loop once for each batch size, in about 25 s.
        Captioning is then four times as fast on a GPU, but several times slower on a CPU.
      log: receives one-line messages about compiling.

    Attributes:
      engine: as given.
      precision: the encoder's precision: "float32", "float16", or "int8" for a bundle with an 8-bit backbone.
    """

    def __init__(
        self,
        config: CaptionerConfig,
        vocabulary: Vocabulary,
        encoder: Encoder,
        decoder: Decoder,
        version: str = "unsaved",
        decoding: Decoding | None = None,
        engine: str = "tensorflow",
        log: Callable[[str], None] = print,
    ) -> None:
        self.config = config
        self.vocabulary = vocabulary
        self.encoder = encoder
        self.decoder = decoder
        self.version = version
        self.decoding = decoding or Decoding()
        self._search = _search_function(self.decoding, config, vocabulary)
        self.engine = engine
        self._xla = engine == "xla"
        self.batches_at_once = 2 if self._xla else 1  # one is copied to the device while the other is computed
        self.precision: str = "int8" if config.int8 else encoder.compute_dtype
        self._log = log
        self._compiled_for: set[int] = set()
        size = config.input_size
        signature = [
            tf.TensorSpec((None, size, size, 3), tf.uint8),
            tf.TensorSpec((None, self.decoding.num_captions, config.max_words), tf.float32),
        ]
        self._compiled = tf.function(self._caption, input_signature=signature, autograph=False, jit_compile=self._xla)

    @property
    def input_size(self) -> int:
        """S: the side of the images, in pixels."""
        return self.config.input_size

    def caption(self, images: npt.NDArray[np.uint8]) -> list[tuple[Caption, ...]]:
        """Captions each image of a batch.

        An image's captions do not depend on the batch size or on the other images. Thread-safe.

        Args:
          images: uint8[B, S, S, 3] with S = `config.input_size`, as `model.preprocessing.load_image` returns them.

        Returns:
          `decoding.num_captions` captions for each image, best first.

        Raises:
          ValueError: `images` has another dtype or shape.
        """
        check_images(images, self.config.input_size)
        started = time.monotonic()
        words, log_probabilities = self._compiled(_to_tensor(images), self._uniforms(images))
        if self._xla and len(images) not in self._compiled_for:
            self._compiled_for.add(len(images))
            took = f"{time.monotonic() - started:.1f} s"
            self._log(f"compiled with XLA in {took}: batches of {len(images)} images, encoder in {self.precision}")
        return self._captions(words.numpy(), log_probabilities.numpy())

    def caption_features(self, features: Tensor, uniforms: Tensor = None) -> Hypotheses:
        """Runs the decoding loop.

        Args:
          features: float32[B, L, U], from the encoder.
          uniforms: float32[B, K, T] in [0, 1), needed only for sampling.
        """

        def step_for(features: Tensor) -> Step:
            def step(last: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
                logits, state = self.decoder.step(last, state, features)
                # All captions start at the same step, so one vector serves all: a pass over all logits is expensive.
                at_start = tf.cast(tf.reduce_any(tf.equal(last, START)), tf.float32)
                # A caption has at least one word.
                return logits + (_ban(size, _NEVER_WRITTEN) + at_start * _ban(size, (END,))), state

            return step

        def step_for_images(images: Tensor) -> Step:
            return step_for(tf.gather(features, images))

        size = len(self.vocabulary)
        state = self.decoder.initial_state(features, _hypotheses(self.decoding))
        return self._search(step_for(features), state, uniforms, None if self._xla else step_for_images)

    def _caption(self, images: Tensor, uniforms: Tensor) -> Hypotheses:
        """The compiled graph."""
        found = self.caption_features(self.encoder(images), uniforms)
        kept = self.decoding.num_captions
        return Hypotheses(found.words[:, :kept], found.log_probabilities[:, :kept])

    def _captions(
        self, words: npt.NDArray[np.int32], log_probabilities: npt.NDArray[np.float32]
    ) -> list[tuple[Caption, ...]]:
        """int32[B, K, T], float32[B, K, T] -> K captions for each image; sampled captions are sorted by score."""
        scores = log_probabilities.sum(axis=-1, dtype=np.float64)
        if self.decoding.method == "sample":
            words, scores = best_first(words, scores)
        return captions_from(self.vocabulary, words, scores)

    def _uniforms(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """float32[B, K, T]: see `model.caption.uniforms`; zeros if nothing is sampled."""
        if self.decoding.method == "sample":
            return uniforms(images, self.decoding, self.config.max_words)
        return np.zeros((len(images), self.decoding.num_captions, self.config.max_words), np.float32)


def _to_tensor(images: npt.NDArray[np.uint8]) -> Tensor:
    """A tensor that shares the array's memory if it is aligned (`pad_batch`); else a copy, which blocks all threads."""
    if images.ctypes.data % ALIGNMENT or not (images.flags.c_contiguous and images.flags.writeable):
        return tf.convert_to_tensor(images)
    return tf.experimental.dlpack.from_dlpack(images.__dlpack__())


def _ban(size: int, words: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """float32[V], which makes `words` impossible if it is added to logits float32[..., V]."""
    bias = np.zeros(size, np.float32)
    bias[list(words)] = -1e9
    return bias


def _hypotheses(decoding: Decoding) -> int:
    """K: the captions that are decoded side by side for each image."""
    return max(decoding.beam_width, decoding.num_captions) if decoding.method == "beam" else decoding.num_captions


Search = Callable[[Step, Tensor, Tensor, StepForImages | None], Hypotheses]


def _search_function(decoding: Decoding, config: CaptionerConfig, vocabulary: Vocabulary) -> Search:
    """(step, initial state float32[B, K, U], uniforms float32[B, K, T], step for some images) -> hypotheses."""
    guard, max_words = decoding.no_repeat_ngram, config.max_words
    length_penalty = config.length_penalty if decoding.length_penalty is None else decoding.length_penalty
    once = content_words(vocabulary) if config.content_words_once else None

    def run(step: Step, state: Tensor, uniforms: Tensor, step_for_images: StepForImages | None) -> Hypotheses:
        match decoding.method:
            case "beam":
                return search.beam(step, state, max_words, length_penalty, guard, step_for_images, once)
            case "sample":
                top_k, temperature = decoding.top_k, decoding.temperature
                return search.sample(step, state, max_words, uniforms, top_k, temperature, guard, step_for_images, once)
            case _:
                return search.greedy(step, state, max_words, guard, step_for_images, once)

    return run
