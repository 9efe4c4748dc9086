"""`--captioner=keras_hub`: PaliGemma of KerasHub, on TensorFlow."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from beam_job.captioners.hub import checksum_of
from beam_job.captioners.versions import caption_digest
from beam_job.config import JobConfig
from model import Caption, CaptionerError, CaptionFailure, Picture
from model.devices import NoGpuError, open_gpus

DEFAULT_PROMPT = "caption en\n"  # PaliGemma's
_MAX_SIDE = 1024
_FILES = ("*.json", "*.h5", "assets/**/*")


def open_captioner(config: JobConfig, version: str | None) -> KerasHubCaptioner:
    """The captioner of `config.model`, not loaded yet.

    Raises:
      CaptionerError: the extra is not installed, there is no such model, or an option does not go with it.
    """
    missing = [name for name in ("keras_hub", "tensorflow_text") if importlib.util.find_spec(name) is None]
    if missing:
        raise CaptionerError(
            f"--captioner=keras_hub needs {' and '.join(missing)}: pip install 'caption-images[keras_hub]'"
        )
    if not config.model:
        raise CaptionerError("--captioner=keras_hub needs --model=PRESET or --model=FOLDER")
    if config.decoding.method == "sample" or config.decoding.num_captions > 1:
        raise CaptionerError("--captioner=keras_hub gives one caption per image, with --decoding=beam or greedy")
    digest = caption_digest(config, default_prompt=DEFAULT_PROMPT)
    return KerasHubCaptioner(config, f"{_source_version(config.model)}-{digest}")


def _source_version(model: str) -> str:
    """Name and revision: the checksum of a folder, or the preset's version on Kaggle, which this KerasHub fixes."""
    folder = Path(model)
    if folder.is_dir():
        if not (folder / "task.json").is_file():
            raise CaptionerError(f"--model={model} has no task.json; give a folder that save_to_preset has written")
        return f"{folder.resolve().name}@{checksum_of(folder, _FILES)}"
    from keras_hub.models import PaliGemmaCausalLM

    presets = PaliGemmaCausalLM.presets
    if model not in presets:
        raise CaptionerError(
            f"--model={model} is neither a folder here nor a preset of PaliGemma, such as {next(iter(presets))}"
        )
    return f"{model}@{presets[model]['kaggle_handle'].rpartition('/')[2]}"


class KerasHubCaptioner:
    """A `model.PictureCaptioner` of a `keras_hub.models.PaliGemmaCausalLM`; its captions have no score.

    Args:
      config: the job.
      version: of the model, with the digest of prompts and options.
    """

    engine = "keras_hub"
    batch_size = 8

    def __init__(self, config: JobConfig, version: str) -> None:
        self.version = version
        self.max_side = config.max_side or _MAX_SIDE
        self.precision = "float32"
        self.on_gpu = False
        self._config = config
        self._model: Any = None

    def check(self) -> None:
        """Raises CaptionerError where a GPU is required and TensorFlow sees none."""
        try:
            self.on_gpu = open_gpus(required=self._config.require_gpu) > 0
        except NoGpuError as error:
            raise CaptionerError(str(error)) from error

    def load(self) -> None:
        """Downloads the preset unless it is there, and loads it.

        Raises:
          CaptionerError: it cannot be loaded, or there is no GPU where one is required.
        """
        import keras_hub

        self.check()
        self.precision = "bfloat16" if self.on_gpu else "float32"
        name = self._config.model
        try:
            self._model = keras_hub.models.PaliGemmaCausalLM.from_preset(name, dtype=self.precision)
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise CaptionerError(f"--model={name} cannot be loaded: {type(error).__name__}: {reason}") from error
        self._size: tuple[int, int] = tuple(self._model.preprocessor.image_converter.image_size)
        beams = self._config.decoding.beam_width
        samplers = keras_hub.samplers
        beam = self._config.decoding.method == "beam" and beams > 1
        self._model.compile(sampler=samplers.BeamSampler(num_beams=beams) if beam else samplers.GreedySampler())

    def caption_pictures(self, pictures: Sequence[Picture]) -> Sequence[Sequence[Caption] | CaptionFailure]:
        by_prompt: dict[str, list[int]] = {}
        for place, picture in enumerate(pictures):
            by_prompt.setdefault(picture.prompt or DEFAULT_PROMPT, []).append(place)
        captions: dict[int, list[Caption]] = {}
        for prompt, places in by_prompt.items():
            texts = self._generate([pictures[place] for place in places], prompt)
            captions |= {place: [Caption(text.strip(), None)] for place, text in zip(places, texts, strict=True)}
        return [captions[place] for place in range(len(pictures))]

    def _generate(self, pictures: list[Picture], prompt: str) -> list[str]:
        """A caption for each picture. All batches have one size: for another shape the graph is compiled again."""
        size = max(len(pictures), self._config.batch_size or self.batch_size)
        height, width = self._size
        images = np.zeros((size, height, width, 3), np.float32)
        for image, picture in zip(images, pictures, strict=False):
            image[:] = np.asarray(Image.fromarray(picture.pixels).resize((width, height), Image.Resampling.BICUBIC))
        length = len(self._model.preprocessor.tokenizer(prompt)) + 1 + self._config.max_new_tokens
        inputs = {"images": images, "prompts": [prompt] * size}
        texts: list[str] = self._model.generate(inputs, max_length=length, strip_prompt=True)
        return texts[: len(pictures)]
