"""Generation with a loaded model of transformers; imports PyTorch."""

from __future__ import annotations

import importlib.util
import logging
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    LogitsProcessor,
    LogitsProcessorList,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from beam_job.config import JobConfig
from model import Caption, CaptionerError, Decoding, Picture

_UNKNOWN = "it needs its own Python code, which is not run; use a model that this version of transformers supports"
_NO_CAPTIONER = "it is not an image-to-text model"
_SAFE = {"local_files_only": True, "trust_remote_code": False}
# Models without a chat template that expect a task in words.
_TASKS = {"paligemma": "caption en", "florence2": "<CAPTION>"}


class Generator:
    """A loaded model and its processor; one thread at a time uses it.

    Args:
      folder: with the model's files.
      name: of the model, for messages.
      config: the job.
      default_prompt: for chat models, where a picture has no prompt.

    Attributes:
      device: "cpu", "cuda" or "mps".
      precision: the type of its numbers, such as "bfloat16".

    Raises:
      CaptionerError: the model cannot be loaded, or there is no GPU where one is required.
    """

    def __init__(self, folder: Path, name: str, config: JobConfig, default_prompt: str) -> None:
        _be_quiet()
        self.device, dtype = _device()
        check_gpu(config)
        self.precision = str(dtype).removeprefix("torch.")
        try:
            self._kind = AutoConfig.from_pretrained(folder, **_SAFE).model_type
            self._load(folder, dtype)
        except Exception as error:
            if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
                raise
            raise CaptionerError(f"--model={name} cannot be loaded: {_reason(error)}") from error
        _check_length(name, self._model.config, config.max_new_tokens)
        self._is_chat = bool(getattr(self._processor, "chat_template", None))
        if self._is_chat:
            self._default_prompt: str | None = default_prompt
        else:
            self._default_prompt = _TASKS.get(self._kind)
        self._decoding = config.decoding
        self._options = _generation_options(config)
        self._tokens = 0

    def _load(self, folder: Path, dtype: torch.dtype) -> None:
        if self._kind == "vision-encoder-decoder":  # which has no processor of its own
            self._processor: Any = None
            self._image_processor = AutoImageProcessor.from_pretrained(folder, **_SAFE)
            self._tokenizer = AutoTokenizer.from_pretrained(folder, **_SAFE)
        else:
            self._processor = AutoProcessor.from_pretrained(folder, **_SAFE)
            self._tokenizer = self._processor.tokenizer
        self._tokenizer.padding_side = "left"  # a prompt ends where the caption begins
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, use_safetensors=True, **_SAFE)
        self._model = model.eval().to(self.device)
        # BLIP passes its own end to `generate`.
        ends = model.config.text_config.sep_token_id if self._kind == "blip" else model.generation_config.eos_token_id
        self._ends = torch.tensor([ends] if isinstance(ends, int) else ends or [], device=self.device)

    def captions(self, pictures: Sequence[Picture]) -> list[list[Caption]]:
        """The captions of each picture, best first.

        Chat models take a batch with padding, for which they are made. Others get pictures with one prompt at a time,
        so that a caption does not depend on the batch.
        """
        found: list[list[Caption]] = [[] for _ in pictures]
        for places in self._groups(pictures):
            group = [pictures[place] for place in places]
            for place, captions in zip(places, self._generate(group), strict=True):
                found[place] = captions
        return found

    def take_tokens(self) -> int:
        """Tokens generated since the last call."""
        tokens, self._tokens = self._tokens, 0
        return tokens

    def _groups(self, pictures: Sequence[Picture]) -> list[list[int]]:
        if self._is_chat:
            return [list(range(len(pictures)))]
        by_prompt: dict[str | None, list[int]] = {}
        for place, picture in enumerate(pictures):
            by_prompt.setdefault(picture.prompt, []).append(place)
        return list(by_prompt.values())

    def _generate(self, pictures: Sequence[Picture]) -> list[list[Caption]]:
        count = self._decoding.num_captions
        options = dict(self._options)
        if self._decoding.method == "sample":
            pictures = [picture for picture in pictures for _ in range(count)]
            options["logits_processor"] = LogitsProcessorList([SeededSampler(pictures, self._decoding)])
        inputs = self._inputs(pictures)
        with torch.inference_mode():
            output = self._model.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)
            tokens, scores = self._scored(output)
        texts = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        captions = [Caption(text.strip(), score) for text, score in zip(texts, scores, strict=True)]
        grouped = [captions[start : start + count] for start in range(0, len(captions), count)]
        if self._decoding.method == "sample":
            for found in grouped:
                found.sort(key=lambda caption: caption.score or 0.0, reverse=True)
        return grouped

    def _inputs(self, pictures: Sequence[Picture]) -> Mapping[str, Any]:
        images = [Image.fromarray(picture.pixels) for picture in pictures]
        prompts = [picture.prompt or self._default_prompt for picture in pictures]
        if self._processor is None:
            inputs = self._image_processor(images, return_tensors="pt")
        elif self._is_chat:
            inputs = self._chat_inputs(images, prompts)
        elif prompts[0] is None:
            inputs = self._processor(images=images, return_tensors="pt")
        else:
            inputs = self._processor(images=images, text=prompts, return_tensors="pt", padding=True)
            if self._kind == "git":  # whose tokenizer ends a text that is to be continued
                inputs = {**inputs, "input_ids": inputs["input_ids"][:, :-1]}
                inputs["attention_mask"] = inputs["attention_mask"][:, :-1]
        return {name: self._moved(value) for name, value in inputs.items()}

    def _chat_inputs(self, images: Sequence[Image.Image], prompts: Sequence[str | None]) -> Mapping[str, Any]:
        asked = [
            [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": prompt}]}]
            for image, prompt in zip(images, prompts, strict=True)
        ]
        return self._processor.apply_chat_template(
            asked,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs={"padding": True, "return_tensors": "pt"},
        )

    def _moved(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(self.device, self._model.dtype) if value.is_floating_point() else value.to(self.device)

    def _scored(self, output: Any) -> tuple[torch.Tensor, list[float]]:
        """int64[N, T] generated tokens, and the mean log-probability of each sequence's, its end included."""
        beams = getattr(output, "beam_indices", None)
        steps = len(output.logits) if beams is None else int((beams >= 0).sum(-1).max())
        logs = self._model.compute_transition_scores(output.sequences, output.logits, beams, normalize_logits=True)
        tokens = output.sequences[:, -steps:]
        ended = torch.isin(tokens, self._ends).cumsum(-1)
        counts = (ended - torch.isin(tokens, self._ends).long()) == 0  # up to the first end, and that itself
        self._tokens += int(counts.sum())
        means = (logs[:, :steps].float() * counts).sum(-1) / counts.sum(-1)
        return tokens, [float(mean) for mean in means]


class SeededSampler(LogitsProcessor):
    """Draws the next token of each picture with random numbers that depend on its pixels, the seed and the attempt.

    Adding Gumbel noise to the log-probabilities and taking the largest is equivalent to sampling from them, so the
    result does not depend on the batch. All other tokens are excluded.

    Args:
      pictures: of the rows.
      decoding: `top_k`, `temperature` and `seed`.
    """

    def __init__(self, pictures: Sequence[Picture], decoding: Decoding) -> None:
        self._decoding = decoding
        seeds = [zlib.crc32(np.ascontiguousarray(picture.pixels).data) for picture in pictures]
        tries = [seeds[:place].count(seed) for place, seed in enumerate(seeds)]
        count = decoding.num_captions
        self._random = [
            np.random.default_rng((decoding.seed, seed, number % count))
            for seed, number in zip(seeds, tries, strict=True)
        ]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        top, places = scores.float().topk(min(self._decoding.top_k, scores.shape[-1]))
        noise = np.stack([random.gumbel(size=top.shape[-1]) for random in self._random])
        drawn = (top / self._decoding.temperature + torch.from_numpy(noise).to(top)).argmax(-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter(-1, places.gather(-1, drawn), 0.0)


def _generation_options(config: JobConfig) -> dict[str, Any]:
    """The job's decoding options for `generate`; those of the model's generation_config.json that sample are unset."""
    decoding = config.decoding
    options: dict[str, Any] = {"max_new_tokens": config.max_new_tokens, "do_sample": False}
    options |= dict.fromkeys(("temperature", "top_k", "top_p", "min_p", "typical_p"))
    options |= {"num_beams": 1, "num_return_sequences": 1}
    if decoding.method == "beam":
        options |= {"num_beams": max(decoding.beam_width, decoding.num_captions)}
        options |= {"num_return_sequences": decoding.num_captions}
        if decoding.length_penalty is not None and options["num_beams"] > 1:
            options["length_penalty"] = decoding.length_penalty
    # The default is made for the bundled model; of a long sentence it would forbid every second "in the".
    if decoding.no_repeat_ngram != Decoding.no_repeat_ngram:
        options["no_repeat_ngram_size"] = decoding.no_repeat_ngram
    return options


def check_gpu(config: JobConfig) -> None:
    """Raises CaptionerError where a GPU is required and PyTorch sees none."""
    if config.require_gpu and _device()[0] == "cpu":
        raise CaptionerError("--require_gpu: PyTorch sees no GPU here; install the driver and a CUDA build of it")


def check_kind(name: str, kind: str | None) -> None:
    """Raises CaptionerError for a `model_type` that transformers does not know, or that makes no text from images."""
    if kind is None or kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return
    reason = _NO_CAPTIONER if kind in CONFIG_MAPPING_NAMES else f"{_UNKNOWN} (model_type {kind!r:.80})"
    raise CaptionerError(f"--model={name} cannot be used: {reason}")


def _check_length(name: str, model: Any, max_new_tokens: int) -> None:
    """Refuses captions that are longer than the model's table of positions: each picture would fail."""
    positions = getattr(model.get_text_config(decoder=True), "max_position_embeddings", None)
    if positions and max_new_tokens >= positions:
        raise CaptionerError(
            f"--max_new_tokens={max_new_tokens} is too many for --model={name}, which has {positions} positions; "
            "give fewer"
        )


def _device() -> tuple[str, torch.dtype]:
    """The best device here, and the best precision for inference on it."""
    if torch.cuda.is_available():
        return "cuda", torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if torch.backends.mps.is_available():
        return "mps", torch.float16
    return "cpu", torch.float32


def _be_quiet() -> None:
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "trust_remote_code" in text or "custom code" in text:
        return _UNKNOWN
    if importlib.util.find_spec("torchvision") is None and re.search("torchvision|VIDEO", text):
        return "it needs torchvision, in the version that matches torch (pip install torchvision)"
    if "Unrecognized configuration class" in text or "AutoModelForImageTextToText" in text:
        return _NO_CAPTIONER
    return f"{type(error).__name__}: {text}"[:300]
