"""Images in, captions out: the network, the vocabulary and a decoding loop as one compiled function."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from model import search
from model.caption import Caption
from model.config import CaptionerConfig, Decoding
from model.network import Decoder, Encoder
from model.preprocessing import ALIGNMENT
from model.vocabulary import END, PAD, START, UNKNOWN, Vocabulary

Tensor = Any
Encode = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
_NEVER_WRITTEN = (PAD, UNKNOWN, START)  # and a caption has a word at least


class Captioner:
    """A captioner ready for use; `model.bundle.load_captioner` makes one from a bundle.

    Args:
      config: the architecture.
      vocabulary: its words.
      encoder: uint8[B, S, S, 3] -> float32[B, L, U].
      decoder: its `step` is one word.
      version: what `model_version` columns hold; the bundle's content names it.
      decoding: how words are chosen.
      encode: does the encoder's work instead, outside TensorFlow: uint8[B, S, S, 3] -> float32[B, L, U].
      xla: compile encoder and decoding loop with XLA, once for each size of batch: four times as fast on a GPU, but
        several times slower on a CPU, and each size takes some 25 s.
      tell: takes a line for people, about compiling.

    Attributes:
      engine: what runs the encoder: "tensorflow", "xla" (TensorFlow, compiled) or "litert".
      precision: what it computes in: "float32" or "float16", or "int8" where the bundle's backbone does.
    """

    def __init__(
        self,
        config: CaptionerConfig,
        vocabulary: Vocabulary,
        encoder: Encoder,
        decoder: Decoder,
        version: str = "unsaved",
        decoding: Decoding | None = None,
        encode: Encode | None = None,
        xla: bool = False,
        tell: Callable[[str], None] = print,
    ) -> None:
        self.config = config
        self.vocabulary = vocabulary
        self.encoder = encoder
        self.decoder = decoder
        self.version = version
        self.decoding = decoding or Decoding()
        self._decode_from = _search_of(self.decoding, config)
        self._encode = encode
        self.engine = "litert" if encode else "xla" if xla else "tensorflow"
        self.precision: str = "int8" if config.int8 else encoder.compute_dtype
        self._tell = tell
        self._xla = xla
        self._compiled_for: set[int] = set()
        size = config.input_size
        _, height, width, _ = encoder.backbone.output_shape
        signature = [
            tf.TensorSpec((None, height * width, config.units), tf.float32)
            if encode
            else tf.TensorSpec((None, size, size, 3), tf.uint8),
            tf.TensorSpec((None, self.decoding.num_captions, config.max_words), tf.float32),
        ]
        self._compiled = tf.function(self._caption, input_signature=signature, autograph=False, jit_compile=xla)

    @property
    def input_size(self) -> int:
        """S: side of the images in pixels."""
        return self.config.input_size

    def caption(self, images: npt.NDArray[np.uint8]) -> list[tuple[Caption, ...]]:
        """Captions for each image, the best first.

        An image's captions do not depend on the size of the batch or on its neighbours. Any thread may call it.

        Args:
          images: uint8[B, S, S, 3] with S = `config.input_size`, as `model.preprocessing.load_image` gives them.

        Returns:
          for each image `decoding.num_captions` captions.

        Raises:
          ValueError: `images` has another type or shape.
        """
        size = self.config.input_size
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3):
            raise ValueError(f"expected uint8[B, {size}, {size}, 3], got {images.dtype}{list(images.shape)}")
        given = self._encode(images) if self._encode else _tensor(images)
        started = time.monotonic()
        words, log_probabilities = self._compiled(given, self._uniforms(images))
        if self.engine == "xla" and len(images) not in self._compiled_for:
            self._compiled_for.add(len(images))
            took = f"{time.monotonic() - started:.1f} s"
            self._tell(f"compiled with XLA in {took}: {len(images)} images at once, the encoder in {self.precision}")
        return self._captions(words.numpy(), log_probabilities.numpy())

    def caption_features(self, features: Tensor, uniforms: Tensor = None) -> search.Hypotheses:
        """The decoding loop alone: float32[B, L, U] and, for sampling, float32[B, K, T] in [0, 1)."""

        def step_for(features: Tensor) -> search.Step:
            def step(last: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
                logits, state = self.decoder.step(last, state, features)
                # All captions are at their start at the same time: one vector for all, as a pass over all logits is
                # dear.
                at_start = tf.cast(tf.reduce_any(tf.equal(last, START)), tf.float32)
                return logits + (_banned(size, _NEVER_WRITTEN) + at_start * _banned(size, (END,))), state

            return step

        def narrowed(images: Tensor) -> search.Step:
            return step_for(tf.gather(features, images))

        size = len(self.vocabulary)
        state = self.decoder.initial_state(features, _hypotheses(self.decoding))
        return self._decode_from(step_for(features), state, uniforms, None if self._xla else narrowed)

    def _caption(self, given: Tensor, uniforms: Tensor) -> search.Hypotheses:
        """In the graph, from images or, where they are encoded outside of it, from features."""
        found = self.caption_features(given if self._encode else self.encoder(given), uniforms)
        kept = self.decoding.num_captions
        return search.Hypotheses(found.words[:, :kept], found.log_probabilities[:, :kept])

    def _captions(
        self, words: npt.NDArray[np.int32], log_probabilities: npt.NDArray[np.float32]
    ) -> list[tuple[Caption, ...]]:
        """int32[B, K, T], float32[B, K, T] -> K captions an image, the best score first where they were sampled."""
        lengths = np.maximum(1, np.count_nonzero(words, axis=-1))
        scores = log_probabilities.sum(axis=-1, dtype=np.float64) / lengths
        captions = [
            [Caption(self.vocabulary.decode(row), score) for row, score in zip(*found, strict=True)]
            for found in zip(words.tolist(), scores.tolist(), strict=True)
        ]
        if self.decoding.method == "sample":
            for found in captions:
                found.sort(key=lambda caption: -caption.score)
        return [tuple(found) for found in captions]

    def _uniforms(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Random numbers of each image's own, from its pixels and the seed; zeros where nothing is drawn."""
        shape = (self.decoding.num_captions, self.config.max_words)
        if self.decoding.method != "sample":
            return np.zeros((len(images), *shape), np.float32)
        seeds = [(self.decoding.seed, zlib.crc32(image.tobytes())) for image in images]
        return np.stack([np.random.default_rng(seed).random(shape, np.float32) for seed in seeds])


def _tensor(images: npt.NDArray[np.uint8]) -> Tensor:
    """The same memory where it lies as TensorFlow wants it (`pad_batch`), else a copy, which all threads wait for."""
    if images.ctypes.data % ALIGNMENT or not (images.flags.c_contiguous and images.flags.writeable):
        return tf.convert_to_tensor(images)
    return tf.experimental.dlpack.from_dlpack(images.__dlpack__())


def _banned(size: int, words: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Added to logits float32[..., V], makes `words` impossible."""
    banned = np.zeros(size, np.float32)
    banned[list(words)] = -1e9
    return banned


def _hypotheses(decoding: Decoding) -> int:
    """K: the captions of an image that are followed at the same time."""
    return max(decoding.beam_width, decoding.num_captions) if decoding.method == "beam" else decoding.num_captions


Search = Callable[[search.Step, Tensor, Tensor, search.Narrowed | None], search.Hypotheses]


def _search_of(decoding: Decoding, config: CaptionerConfig) -> Search:
    """(step, first state float32[B, K, U], uniforms float32[B, K, T], step for some images) -> hypotheses."""
    guard, max_words = decoding.no_repeat_ngram, config.max_words
    length_penalty = config.length_penalty if decoding.length_penalty is None else decoding.length_penalty

    def run(step: search.Step, state: Tensor, uniforms: Tensor, narrowed: search.Narrowed | None) -> search.Hypotheses:
        match decoding.method:
            case "beam":
                return search.beam(step, state, max_words, length_penalty, guard, narrowed)
            case "sample":
                top_k, temperature = decoding.top_k, decoding.temperature
                return search.sample(step, state, max_words, uniforms, top_k, temperature, guard, narrowed)
            case _:
                return search.greedy(step, state, max_words, guard, narrowed)

    return run
