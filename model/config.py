"""What a captioner is made of, and how it decodes: two frozen records, checked when made."""

from __future__ import annotations

from dataclasses import dataclass

METHODS = ("beam", "greedy", "sample")
INITIAL_STATES = ("zeros", "mean_feature")
# Those of `model.backbones`, which cannot be imported without TensorFlow.
BACKBONE_NAMES = (
    "efficientnet_lite0",
    "efficientnet_lite2",
    "inception_resnet_v2",
    "resnet50_v2",
    "efficientnet_v2_b0",
)
# Beyond what any captioner of this architecture needs: a bundle that asks for more is refused before memory is taken.
_LARGEST = {"input_size": 1024, "units": 8192, "embedding_units": 8192, "max_words": 512}
_LARGEST_PENALTY = 10  # far beyond what makes a caption as long as it may be


@dataclass(frozen=True)
class CaptionerConfig:
    """The architecture, as `config.json` of a bundle holds it.

    Attributes:
      backbone: a name of `model.backbones.BACKBONES`.
      input_size: side of the square input image, in pixels.
      units: width of the GRU, of the projected features and of the attention.
      embedding_units: width of a word's embedding.
      max_words: words of a caption at most, `<start>` and `<end>` not counted.
      initial_state: the GRU's first state: "zeros" as in the course, or "mean_feature", a dense layer on the mean of
        the features (Xu et al. 2015, "Show, Attend and Tell", section 3.1.2).
      dropout: share of embedding and output units dropped while training.
      int8: the backbone computes with 8-bit whole numbers (`model.int8_layers`), for which it is an EfficientNet-Lite.
      length_penalty: of beam search where no other is asked for (`Decoding`): what the model's captions are best with.
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

    def __post_init__(self) -> None:
        _check_choice("backbone", self.backbone, BACKBONE_NAMES)
        for name, largest in _LARGEST.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= largest:
                raise ValueError(f"{name} must be a whole number from 1 to {largest}, not {value!r:.40}")
        _check_choice("initial_state", self.initial_state, INITIAL_STATES)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout!r}")
        if type(self.int8) is not bool:
            raise ValueError(f"int8 must be true or false, not {self.int8!r:.40}")
        if self.int8 and not self.backbone.startswith("efficientnet_lite"):
            raise ValueError(f"int8 is for an EfficientNet-Lite, not for {self.backbone}")
        _check_length_penalty(self.length_penalty)


@dataclass(frozen=True)
class Decoding:
    """How words are chosen.

    Attributes:
      method: "beam" search, "greedy" choice of the likeliest word, or "sample" among the `top_k` likeliest words.
      num_captions: captions for each image, best first.
      beam_width: hypotheses kept by beam search (at least `num_captions` are).
      length_penalty: alpha of Wu et al. 2016 ("Google's Neural Machine Translation System", section 7); 0 prefers
        short captions, 1 compares by nearly the mean log-probability a word; None is that of the model's configuration.
      top_k: words that sampling chooses from.
      temperature: of sampling; below 1 is bolder towards the likely words.
      seed: of sampling; the same image and seed give the same captions, in whatever batch.
      no_repeat_ngram: n words in a row that no caption holds twice, nor does a word follow itself; 0 for no such guard.
        With 2, fewer than half as many captions of the default model say a content word twice, and CIDEr is no lower
        (`model/default/MODEL_CARD.md`).
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
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number from 1, not {value!r}")
        if self.method == "greedy" and self.num_captions > 1:
            raise ValueError(f"greedy decoding gives one caption, not {self.num_captions}; use beam or sample")
        if self.length_penalty is not None:
            _check_length_penalty(self.length_penalty)
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, not {self.temperature!r}")
        for name in ("seed", "no_repeat_ngram"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)!r}")


def _check_length_penalty(value: float) -> None:
    if not 0 <= value <= _LARGEST_PENALTY:
        raise ValueError(f"length_penalty must be from 0 to {_LARGEST_PENALTY}, not {value!r:.40}")


def _check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{what} must be one of {', '.join(choices)}, not {value!r:.80}")
