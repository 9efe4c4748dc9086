"""`--captioner=transformers`: image-to-text models of the Hugging Face Hub, by their own processors, in PyTorch."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from beam_job.captioners.hub import ModelSource, find_source
from beam_job.captioners.versions import caption_digest
from beam_job.config import JobConfig
from model import Caption, CaptionerError, CaptionFailure, Picture

DEFAULT_PROMPT = "Describe this image in one sentence."  # of chat models, which say nothing unless they are asked
_MAX_SIDE = 1024
_BATCH, _BATCH_ON_GPU = 8, 16


def open_captioner(config: JobConfig, version: str | None) -> TransformersCaptioner:
    """The captioner of `config.model`, not loaded yet.

    Raises:
      CaptionerError: the extra is not installed, or there is no such model.
    """
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise CaptionerError(
            f"--captioner=transformers needs {' and '.join(missing)}: pip install 'caption-images[transformers]'"
        )
    if not config.model:
        raise CaptionerError("--captioner=transformers needs --model=REPOSITORY[@REVISION] or --model=FOLDER")
    digest = caption_digest(config, default_prompt=DEFAULT_PROMPT)
    revision = version.rpartition("-")[0].rpartition("@")[2] if version else None
    source = find_source(config.model, revision)
    if source.kind == "vision-encoder-decoder" and config.prompts:
        raise CaptionerError(f"--model={source.name} takes no --prompt: its decoder ({source.kind}) only captions")
    return TransformersCaptioner(config, source, digest)


class TransformersCaptioner:
    """A `model.PictureCaptioner` of a model for transformers.

    Args:
      config: the job.
      source: of the model.
      digest: of prompts and options.

    Attributes:
      on_gpu: whether it runs on a GPU; known after `load`.
      precision: its numbers' type; known after `load`.
    """

    engine = "torch"

    def __init__(self, config: JobConfig, source: ModelSource, digest: str) -> None:
        self.version = f"{source.version}-{digest}"
        self.max_side = config.max_side or _MAX_SIDE
        self.on_gpu = False
        self.precision = "float32"
        self._config = config
        self._source = source
        self._generator: Any = None
        self._counts = {"tokens_out": 0}

    @property
    def batch_size(self) -> int:
        """Pictures in a batch unless the user says so."""
        return _BATCH_ON_GPU if self.on_gpu else _BATCH

    def check(self) -> None:
        """Looks whether transformers has such a model, and whether there is a GPU where one is required.

        Raises:
          CaptionerError: it has none, or there is none.
        """
        from beam_job.captioners.transformers_generator import check_gpu, check_kind

        check_gpu(self._config)
        check_kind(self._source.name, self._source.kind)

    def load(self) -> None:
        """Downloads what the cache lacks, and loads the model.

        Raises:
          CaptionerError: it cannot be loaded, or there is no GPU where one is required.
        """
        from beam_job.captioners.transformers_generator import Generator

        self._generator = Generator(self._source.files(), self._source.name, self._config, DEFAULT_PROMPT)
        self.on_gpu = self._generator.device != "cpu"
        self.precision = self._generator.precision

    def caption_pictures(self, pictures: Sequence[Picture]) -> Sequence[Sequence[Caption] | CaptionFailure]:
        captions: Sequence[Sequence[Caption]] = self._generator.captions(pictures)
        self._counts["tokens_out"] += self._generator.take_tokens()
        return captions

    def take_counts(self) -> Mapping[str, int]:
        counts, self._counts = self._counts, {"tokens_out": 0}
        return counts
