"""The options of `python -m model train`. Importing this module does not import TensorFlow."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, fields
from pathlib import Path

from model.config import BACKBONE_NAMES, INITIAL_STATES, CaptionerConfig
from model.training.command import command_parser

METHODS = ("frozen", "finetune", "self_critical")
PRECISIONS = ("float32", "bfloat16")
SMALLEST_CROP = 0.75  # of an image's side
_DEFAULT_WEIGHTS = {"efficientnet_lite2": "bundled"}
_DEFAULT_TUNED_SHARE = {"frozen": 0.0, "finetune": 0.6, "self_critical": 0.0}


@dataclass(frozen=True)
class TrainingOptions:
    """The options of the training loop.

    Attributes:
      epochs: passes over the training images.
      batch_size: images for each step; all their captions are learnt together.
      learning_rate: the peak of AdamW's learning rate: linear warm-up over the first half epoch, then a cosine to 0.
      backbone_rate: the backbone's learning rate as a share of `learning_rate`.
      weight_decay: of AdamW.
      label_smoothing: share of the probability that is spread over all words (Szegedy et al. 2016, section 7).
      weight_average: momentum of the moving average of the weights, which is what is validated and saved; 0 saves the
        weights of the last step.
      patience: stop after this many epochs without a better validation score; 0 never stops early.
      seed: of the initial weights, the order of images, augmentation and dropout.
    """

    epochs: int = 12
    batch_size: int = 32
    learning_rate: float = 1e-3
    backbone_rate: float = 0.1
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    weight_average: float = 0.0
    patience: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be a whole number from 1, not {getattr(self, name)!r}")
        for name in ("learning_rate", "backbone_rate"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, not {getattr(self, name)!r}")
        for name in ("label_smoothing", "weight_average"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, not {getattr(self, name)!r}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"weight_decay must be a number from 0, not {self.weight_decay!r}")
        for name in ("patience", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be a whole number from 0, not {getattr(self, name)!r}")


_HELP = {
    "epochs": "passes over the training images",
    "batch_size": "images for each step",
    "learning_rate": "peak of AdamW's learning rate",
    "backbone_rate": "the backbone's learning rate, as a share of --learning_rate",
    "weight_decay": "weight decay of AdamW",
    "label_smoothing": "share of the probability that is spread over all words",
    "weight_average": "momentum of the moving average of the weights that is saved; 0 saves the last step's weights",
    "patience": "stop after N epochs without a better validation score; 0 never stops early",
    "seed": "seed of all random choices",
}


def fraction(text: str) -> float:
    """Parses a number from 0 to 1, for argparse."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, not {text}")
    return value


def train_parser(description: str | None) -> argparse.ArgumentParser:
    """The command's options; `args.method` is one of `METHODS`."""
    parser = command_parser("train", description)
    _add_data_options(parser)
    _add_model_options(parser)
    _add_training_options(parser)
    _add_reward_options(parser)
    return parser


def parse_train_options(description: str | None, argv: list[str] | None) -> argparse.Namespace:
    """Parses the command line; `args.tuned_share` and `args.backbone_weights` are never None."""
    args = train_parser(description).parse_args(argv)
    args.backbone_weights = args.backbone_weights or _DEFAULT_WEIGHTS.get(args.backbone, "imagenet")
    if args.method == "frozen" or args.tuned_share is None:
        args.tuned_share = _DEFAULT_TUNED_SHARE[args.method]
    return args


def training_options(args: argparse.Namespace) -> TrainingOptions:
    """The options of the training loop. Raises ValueError for a value out of range."""
    return TrainingOptions(**{field.name: getattr(args, field.name) for field in fields(TrainingOptions)})


def recipe_options(args: argparse.Namespace) -> list[str]:
    """Names of the options that the result depends on, apart from `TrainingOptions` and the data."""
    network = [] if args.init else ["backbone", "units", "max_words", "initial_state", "min_count"]
    views = ["tuned_share", "smallest_crop"] if args.tuned_share else ["views", "smallest_crop"]
    rewards = ["samples", "forcing", "f_weight", "likeness_weight"] if args.method == "self_critical" else []
    steps = ["captions_per_step"] if args.captions_per_step else []
    text = ["sentence_weight"] if args.sentences else []
    return [
        "method",
        *network,
        *views,
        *steps,
        *rewards,
        *text,
        "input_size",
        "dropout",
        "precision",
        "decoder_precision",
    ]


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data",
        required=True,
        action="append",
        help="Parquet files (image, captions), a captions JSON of COCO, or tfds:NAME[:SPLIT], such as "
        "tfds:coco_captions; may be repeated, for example to add captions that people have corrected",
    )
    group.add_argument(
        "--validation",
        action="append",
        help="validation data in the same formats (default: every 20th image of --data is held out); repeatable, then "
        "the mean CIDEr of the sets is used",
    )
    group.add_argument(
        "--sentences",
        action="append",
        default=[],
        type=Path,
        help="text file, also .gz, with one sentence per line, for the decoder to learn in addition to the captions; "
        "repeatable",
    )
    group.add_argument(
        "--sentence_weight", type=float, default=0.5, help="weight of the sentences in the loss (default: %(default)s)"
    )
    group.add_argument(
        "--images",
        help="folder of the image files (default: the folder of --data; with tfds:, BUNDLE.training/photographs)",
    )
    group.add_argument("--output", required=True, type=Path, metavar="BUNDLE", help="folder of the bundle to write")
    group.add_argument(
        "--cache_features",
        type=Path,
        metavar="DIR",
        help="folder for the backbone's features or the scaled images, which are computed once; several trainings may "
        "share it (default: BUNDLE.training)",
    )


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    model = CaptionerConfig()
    group = parser.add_argument_group("model (with --init, only --dropout and --input_size are used)")
    group.add_argument("--init", type=Path, metavar="BUNDLE", help="a bundle to start from")
    group.add_argument(
        "--backbone", default=model.backbone, choices=BACKBONE_NAMES, help="encoder (default: %(default)s)"
    )
    group.add_argument(
        "--backbone_weights",
        metavar="FILE",
        help="a safetensors file of a bundle or of `python -m model convert`, or bundled (from the bundled model, an "
        "efficientnet_lite2), imagenet (downloaded by Keras) or none (random) (default: bundled for "
        "efficientnet_lite2, otherwise imagenet)",
    )
    group.add_argument(
        "--input_size", type=int, help="pixels per side (default: the backbone's own, or that of --init)"
    )
    group.add_argument("--units", type=int, default=model.units, help="width of the decoder (default: %(default)s)")
    group.add_argument("--max_words", type=int, default=model.max_words, help="longest caption (default: %(default)s)")
    group.add_argument(
        "--initial_state",
        default=model.initial_state,
        choices=INITIAL_STATES,
        help="the GRU's initial state (default: %(default)s)",
    )
    group.add_argument(
        "--dropout",
        type=float,
        default=model.dropout,
        help="dropout rate of the word embeddings and of the decoder's output (default: %(default)s)",
    )
    group.add_argument(
        "--min_count", type=int, default=4, help="drop words that occur less often (default: %(default)s)"
    )


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument("--method", default=METHODS[0], choices=METHODS, help="see above (default: %(default)s)")
    group.add_argument(
        "--tuned_share",
        type=fraction,
        help="share of the backbone's layers to train, from the top, 0 to 1 (default: 0.6 with finetune, 0 with "
        "self_critical)",
    )
    _add_view_options(group)
    _add_precision_options(group)
    for field in fields(TrainingOptions):
        default = getattr(TrainingOptions, field.name)
        text = f"{_HELP[field.name]} (default: %(default)s)"
        group.add_argument(f"--{field.name}", type=type(default), default=default, help=text)


def _add_view_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--views",
        type=int,
        default=2,
        help="views of each image if the backbone is not trained: 1 unchanged, 2 also mirrored, more also with random "
        "crops and brightness (default: %(default)s)",
    )
    group.add_argument(
        "--captions_per_step",
        type=int,
        default=0,
        help="captions drawn at random per image and step, if the backbone is not trained; with fewer captions a step "
        "is cheaper, and images with many captions have less weight (default: 0, all)",
    )
    group.add_argument(
        "--smallest_crop",
        type=fraction,
        default=SMALLEST_CROP,
        help="smallest random crop, as a share of an image's side; use a value near 1 if --input_size is above that of "
        "--init (default: %(default)s)",
    )


def _add_precision_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--precision",
        default=PRECISIONS[0],
        choices=PRECISIONS,
        help="precision of the encoder; bfloat16 makes --method=finetune faster on a GPU with tensor cores "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--decoder_precision",
        default=PRECISIONS[0],
        choices=PRECISIONS,
        help="precision of the decoder in training; bfloat16 makes a step a third shorter on a CPU with AVX512-BF16 or "
        "AMX (default: %(default)s)",
    )


def _add_reward_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("rewards (of --method=self_critical)")
    group.add_argument("--samples", type=int, default=5, help="captions drawn for each image (default: %(default)s)")
    group.add_argument(
        "--forcing",
        type=fraction,
        default=0.2,
        help="weight of the loss on human captions, 0 to 1 (default: %(default)s)",
    )
    group.add_argument(
        "--f_weight",
        type=float,
        default=0.0,
        help="weight of METEOR's F-mean, added to a caption's CIDEr-D, which alone favours short captions "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--likeness_weight",
        type=float,
        default=0.0,
        help="weight of a caption's CIDEr with captions drawn for other images, subtracted from its reward to make "
        "captions distinctive (default: %(default)s)",
    )
