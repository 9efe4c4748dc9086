"""Captions images on a CPU without TensorFlow: the encoder in LiteRT or OpenVINO, the decoder in NumPy."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from model.caption import Caption, best_first, captions_from, check_images, uniforms
from model.config import CaptionerConfig, Decoding
from model.encoder_pool import EncoderPool, available_cores
from model.english import content_words
from model.numpy_beam import BeamSearch
from model.numpy_decoder import Doubles, Floats, Ints, NumpyDecoder
from model.numpy_sampling import Sampling
from model.vocabulary import Vocabulary

_FEWEST_IMAGES = 8  # decoded together; the products of fewer take more time for each


class CpuCaptioner:
    """Captions batches of images as `model.captioner.Captioner` does.

    Parts of a batch are decoded in parallel, each with one thread of BLAS: its own threads wait for each other at every
    product, and take several times the CPU time.

    Args:
      config: the architecture.
      vocabulary: the words of captions.
      encode: the encoder.
      decoder: the decoder.
      version: identifies the weights, as in the column `model_version`.
      decoding: how captions are decoded.

    Attributes:
      engine: that of the encoder: "litert" or "openvino".
      precision: the encoder's precision: "float32", or "int8" for a bundle with an 8-bit backbone.
    """

    def __init__(
        self,
        config: CaptionerConfig,
        vocabulary: Vocabulary,
        encode: EncoderPool,
        decoder: NumpyDecoder,
        version: str,
        decoding: Decoding,
    ) -> None:
        self.config = config
        self.vocabulary = vocabulary
        self.version = version
        self.decoding = decoding
        self.engine = encode.engine
        self.precision = "int8" if config.int8 else "float32"
        self._encode = encode
        self._decoder = decoder
        self._search = _search(decoding, config, vocabulary)
        self._cores = available_cores()
        self._pool = ThreadPoolExecutor(self._cores, "decode")
        self._blas = ThreadpoolController()

    @property
    def input_size(self) -> int:
        """S: the side of the images, in pixels."""
        return self.config.input_size

    def caption(self, images: npt.NDArray[np.uint8]) -> list[tuple[Caption, ...]]:
        """Captions each image of a batch; an image's captions do not depend on the others. Thread-safe.

        Args:
          images: uint8[B, S, S, 3] with S = `config.input_size`, as `model.preprocessing.load_image` returns them.

        Returns:
          `decoding.num_captions` captions for each image, best first.

        Raises:
          ValueError: `images` has another dtype or shape.
        """
        check_images(images, self.config.input_size)
        features = self._encode(images)
        parts = max(1, min(self._cores, len(images) // _FEWEST_IMAGES))
        with self._blas.limit(limits=1, user_api="blas"):
            found = list(self._pool.map(self._decode, np.array_split(features, parts), np.array_split(images, parts)))
        words, totals = (np.concatenate(values) for values in zip(*found, strict=True))
        return captions_from(self.vocabulary, words, totals)

    def _decode(self, features: Floats, images: npt.NDArray[np.uint8]) -> tuple[Ints, Doubles]:
        """int32[B, K, T], float64[B, K]: K captions of each image, best first, and their log-probabilities."""
        if isinstance(self._search, BeamSearch):
            return self._search(self._decoder, features)
        drawn = uniforms(images, self.decoding, self.config.max_words)
        return best_first(*self._search(self._decoder, features, drawn))


def _search(decoding: Decoding, config: CaptionerConfig, vocabulary: Vocabulary) -> BeamSearch | Sampling:
    once = content_words(vocabulary) if config.content_words_once else None
    if decoding.method == "sample":
        return Sampling(config.max_words, decoding.top_k, decoding.temperature, decoding.no_repeat_ngram, once)
    kept = decoding.num_captions
    return BeamSearch(
        width=max(decoding.beam_width, kept) if decoding.method == "beam" else 1,
        kept=kept,
        max_words=config.max_words,
        length_penalty=config.length_penalty if decoding.length_penalty is None else decoding.length_penalty,
        no_repeat_ngram=decoding.no_repeat_ngram,
        once=once,
    )
