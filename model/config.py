"""The configuration of a captioner: its architecture and its decoding, checked when they are created."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

METHODS = ("beam", "greedy", "sample")
INITIAL_STATES = ("zeros", "mean_feature")
# The names in `model.backbones`, which imports TensorFlow.
BACKBONE_NAMES = (
    "efficientnet_lite0",
    "efficientnet_lite2",
    "inception_resnet_v2",
    "resnet50_v2",
    "efficientnet_v2_b0",
)
# More than any captioner needs. A bundle that asks for more is refused before memory is allocated.
_MAXIMUM = {"input_size": 1024, "units": 8192, "embedding_units": 8192, "max_words": 512}
# More captions or hypotheses do not fit into memory with a usual batch; no caption has more words.
_LARGEST = {"num_captions": 1_000, "beam_width": 1_000, "no_repeat_ngram": _MAXIMUM["max_words"]}
_TEMPERATURES = (0.001, 1_000)  # float32 overflows below; above, all words are about equally likely
_MAX_LENGTH_PENALTY = 10  # far more than makes every caption as long as possible


@dataclass(frozen=True)
class CaptionerConfig:
    """The architecture of a captioner, as stored in a bundle's config.json.

    Attributes:
      backbone: a key of `model.backbones.BACKBONES`.
      input_size: side of the square input image, in pixels.
      units: width of the GRU, the projected features and the attention.
      embedding_units: width of the word embeddings.
      max_words: maximum number of words in a caption, without `<start>` and `<end>`.
      initial_state: the GRU's initial state: "zeros" as in the course, or "mean_feature", a dense layer on the mean
        of the features (Xu et al. 2015, "Show, Attend and Tell", section 3.1.2).
      dropout: dropout rate of the embeddings and the decoder's output in training.
      int8: the backbone computes with 8-bit integers (`model.int8_layers`); for EfficientNet-Lite only.
      length_penalty: the default of beam search (`Decoding`), chosen for the model's weights.
      content_words_once: for English captions: while `Decoding.no_repeat_ngram` is not 0, no content word is repeated.
    """

    backbone: str = "efficientnet_lite2"
    input_size: int = 224
    units: int = 512
    embedding_units: int = 512
    max_words: int = 24
    initial_state: str = "mean_feature"
    dropout: float = 0.4
    int8: bool = False
    length_penalty: float = 1.0
    content_words_once: bool = False

    def __post_init__(self) -> None:
        _check_choice("backbone", self.backbone, BACKBONE_NAMES)
        for name, maximum in _MAXIMUM.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= maximum:
                raise ValueError(f"{name} must be a whole number from 1 to {maximum}, not {value!r:.40}")
        _check_choice("initial_state", self.initial_state, INITIAL_STATES)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout!r}")
        for name in ("int8", "content_words_once"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} must be true or false, not {getattr(self, name)!r:.40}")
        if self.int8 and not self.backbone.startswith("efficientnet_lite"):
            raise ValueError(f"int8 is for an EfficientNet-Lite, not for {self.backbone}")
        _check_length_penalty("length_penalty", self.length_penalty)


@dataclass(frozen=True)
class Decoding:
    """How captions are decoded.

    Attributes:
      method: "beam" search, "greedy" (always the most likely word), or "sample" from the `top_k` most likely words.
      num_captions: captions for each image; more than one with "beam" or "sample".
      beam_width: hypotheses that beam search keeps, at least `num_captions`.
      length_penalty: alpha of Wu et al. 2016 ("Google's Neural Machine Translation System", section 7); 0 prefers
        short captions, 1 compares nearly by mean log-probability; None is the value in the model's configuration.
      top_k: the number of words that sampling draws from.
      temperature: of sampling; below 1 favours likely words.
      seed: of sampling; the same image and seed give the same captions in any batch.
      no_repeat_ngram: n; no caption contains the same n consecutive words twice, or a word twice in a row; 0 allows
        both. With 2, fewer than half as many captions of the default model repeat a content word, without a loss in
        CIDEr (`model/default/MODEL_CARD.md`).
    """

    method: str = "beam"
    num_captions: int = 1
    beam_width: int = 3
    length_penalty: float | None = None
    top_k: int = 10
    temperature: float = 1.0
    seed: int = 0
    no_repeat_ngram: int = 2

    def __post_init__(self) -> None:
        _check_choice("decoding method", self.method, METHODS)
        for name in ("num_captions", "beam_width", "top_k"):
            _check_whole(name, getattr(self, name), 1)
        for name in ("seed", "no_repeat_ngram"):
            _check_whole(name, getattr(self, name), 0)
        for name, largest in _LARGEST.items():
            if getattr(self, name) > largest:
                raise ValueError(f"--{name} must be at most {largest}, not {getattr(self, name)!r:.40}")
        if self.method == "greedy" and self.num_captions > 1:
            raise ValueError(f"greedy decoding gives one caption, not {self.num_captions}; use beam or sample")
        if self.length_penalty is not None:
            _check_length_penalty("--length_penalty", self.length_penalty)
        low, high = _TEMPERATURES
        if not low <= self.temperature <= high:  # False for NaN too
            raise ValueError(f"--temperature must be above 0 (from {low} to {high}), not {self.temperature!r:.40}")

    @property
    def effective_options(self) -> dict[str, Any]:
        """The options that captions by `method` depend on; the others of a bundle's captioner have no effect."""
        by_method = {
            "beam": ("num_captions", "beam_width", "length_penalty"),
            "greedy": (),
            "sample": ("num_captions", "top_k", "temperature", "seed"),
        }
        return {name: getattr(self, name) for name in ("method", *by_method[self.method], "no_repeat_ngram")}


def _check_whole(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"--{name} must be a whole number from {least}, not {value!r:.40}")
    if value < least:
        allowed = "a whole number from 1" if least == 1 else f"at least {least}"
        raise ValueError(f"--{name} must be {allowed}, not {value!r:.40}")


def _check_length_penalty(name: str, value: float) -> None:
    if not 0 <= value <= _MAX_LENGTH_PENALTY:
        raise ValueError(f"{name} must be from 0 to {_MAX_LENGTH_PENALTY}, not {value!r:.40}")


def _check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{what} must be one of {', '.join(choices)}, not {value!r:.80}")
