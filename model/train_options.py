"""The options of `model.train`."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from model.augment import SMALLEST_CROP
from model.backbones import BACKBONES
from model.config import INITIAL_STATES, CaptionerConfig
from model.trainer import TrainingOptions

METHODS = ("frozen", "finetune", "self_critical")


def share_of(text: str) -> float:
    """A number from 0 to 1, for argparse."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, not {text}")
    return value


def train_parser(description: str | None) -> argparse.ArgumentParser:
    """The command's options; `args.method` is one of `METHODS`."""
    parser = argparse.ArgumentParser(
        prog="python -m model.train",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        required=True,
        action="append",
        help="Parquet files (image, captions), a captions JSON of COCO, or tfds:NAME[:SPLIT], such as "
        "tfds:coco_captions; may be given several times, as for captions that people have corrected (README)",
    )
    data.add_argument(
        "--validation",
        action="append",
        help="the same for choosing the epoch (default: every 20th photograph of --data); may be given several times: "
        "the mean CIDEr of the sets counts",
    )
    data.add_argument(
        "--sentences",
        action="append",
        default=[],
        type=Path,
        help="text, one sentence a line, .gz too, that the decoder learns to write beside the captions; may be given "
        "several times",
    )
    data.add_argument(
        "--sentence_weight", type=float, default=0.5, help="weight of the sentences in the loss (default: 0.5)"
    )
    data.add_argument(
        "--images",
        help="folder of the image files (default: the folder of --data; with tfds:, BUNDLE.training/photographs)",
    )
    data.add_argument("--output", required=True, type=Path, help="folder of the bundle to write")
    data.add_argument(
        "--cache_features",
        type=Path,
        help="folder for what is computed once, the backbone's features or the pictures at their size; shared by "
        "trainings with the same photographs, backbone weights and views (default: BUNDLE.training)",
    )
    _add_model_options(parser)
    _add_training_options(parser)
    _add_reward_options(parser)
    return parser


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    model = CaptionerConfig()
    shape = parser.add_argument_group(
        "model (all but --dropout and --input_size come from the bundle where --init names one)"
    )
    shape.add_argument("--init", type=Path, help="a bundle to go on from")
    shape.add_argument("--backbone", default=model.backbone, choices=BACKBONES, help=f"default: {model.backbone}")
    shape.add_argument(
        "--backbone_weights",
        default="imagenet",
        help="imagenet (downloaded by Keras), none (random), or a safetensors file: a bundle's, or one that "
        "model.convert_efficientnet_lite wrote (default: imagenet)",
    )
    shape.add_argument("--input_size", type=int, help="pixels a side (default: the backbone's own, or that of --init)")
    shape.add_argument("--units", type=int, default=model.units, help=f"width of the decoder (default: {model.units})")
    shape.add_argument("--max_words", type=int, default=model.max_words, help=f"default: {model.max_words}")
    shape.add_argument(
        "--initial_state",
        default=model.initial_state,
        choices=INITIAL_STATES,
        help=f"the GRU's first state (default: {model.initial_state})",
    )
    shape.add_argument(
        "--dropout",
        type=float,
        default=model.dropout,
        help="share of the words' embedding and of what goes to the vocabulary that is hidden while it learns "
        f"(default: {model.dropout})",
    )
    shape.add_argument("--min_count", type=int, default=4, help="a word must be seen this often (default: 4)")


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    training = TrainingOptions()
    learning = parser.add_argument_group("training")
    learning.add_argument("--method", default=METHODS[0], choices=METHODS, help=f"see above (default: {METHODS[0]})")
    learning.add_argument(
        "--tuned_share",
        type=share_of,
        help="how many of the backbone's layers learn, from the top, 0 to 1 (default: 0.6 with finetune, 0 with "
        "self_critical)",
    )
    learning.add_argument(
        "--views",
        type=int,
        default=2,
        help="features of each photograph, where the backbone does not learn: 1 as it is, 2 also mirrored, more also "
        "cropped and relit by chance (default: 2)",
    )
    learning.add_argument(
        "--captions_per_step",
        type=int,
        default=0,
        help="captions of each photograph that a step learns from, drawn at random, where the features are computed "
        "once; fewer make a step cheaper, and photographs with many captions count less (default: 0, all)",
    )
    learning.add_argument(
        "--smallest_crop",
        type=share_of,
        default=SMALLEST_CROP,
        help="of a side of a photograph, where it is cropped by chance; near 1 for an --input_size above that of "
        f"--init (default: {SMALLEST_CROP})",
    )
    learning.add_argument(
        "--precision",
        default="float32",
        choices=("float32", "bfloat16"),
        help="what the encoder computes in; bfloat16 is for a GPU with tensor cores, where --method=finetune is faster "
        "with it (default: float32)",
    )
    learning.add_argument(
        "--decoder_precision",
        default="float32",
        choices=("float32", "bfloat16"),
        help="what the decoder computes in while it learns; bfloat16 takes a third off a step on a CPU that has "
        "AVX512-BF16 or AMX (default: float32)",
    )
    for field in fields(TrainingOptions):
        default = getattr(training, field.name)
        learning.add_argument(f"--{field.name}", type=type(default), default=default, help=f"default: {default}")


def _add_reward_options(parser: argparse.ArgumentParser) -> None:
    rewarding = parser.add_argument_group("rewards (of --method=self_critical)")
    rewarding.add_argument("--samples", type=int, default=5, help="captions drawn for a photograph (default: 5)")
    rewarding.add_argument(
        "--forcing",
        type=share_of,
        default=0.2,
        help="weight of people's captions in the loss, 0 to 1 (default: 0.2)",
    )
    rewarding.add_argument(
        "--f_weight",
        type=float,
        default=0.0,
        help="of METEOR's mean of precision and recall, added to a caption's CIDEr-D, which alone makes "
        "captions short (default: 0)",
    )
    rewarding.add_argument(
        "--likeness_weight",
        type=float,
        default=0.0,
        help="of a caption's CIDEr with captions drawn for other photographs, taken off its reward, so "
        "that captions tell photographs apart (default: 0)",
    )
