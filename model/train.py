"""Trains a captioner in one of three ways, each of which can go on from the bundle of another (`--init`).

    python -m model.train --data=TRAIN.parquet --validation=DEV.parquet --output=BUNDLE

frozen          the backbone stays as it is; its features are computed once, the decoder learns from people's captions
finetune        the upper part of the backbone learns too, from photographs that are cropped, mirrored and relit
self_critical   captions drawn from the decoder are rewarded by their CIDEr-D; the backbone stays as it is

The bundle of the epoch with the best validation CIDEr is written. `BUNDLE.training/` keeps what was computed once, a
checkpoint, the log and, where TensorBoard is installed, its events; the same command, given again after an
interruption, goes on after the last whole epoch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from safetensors.numpy import load_file

from model.backbones import BACKBONES, BackboneError, backbone_named
from model.bundle import BundleError, check_bundle, load_captioner, save_bundle
from model.captioner import Captioner
from model.config import INITIAL_STATES, CaptionerConfig, Decoding
from model.data import TFDS, DataError, Example, read_examples
from model.features import cached_features, cached_images, with_margin
from model.learners import Draw, FineTuning, FrozenBackbone, Learner, SelfCritical, Words
from model.metrics import MetricsError
from model.network import BACKBONE_PREFIX, Encoder, build_network, named_backbone_variables, named_variables
from model.preprocessing import ImageError
from model.trainer import Epoch, Trainer, TrainingOptions
from model.validation import Validation
from model.vocabulary import PAD, Vocabulary

Tensor = Any
METHODS = ("frozen", "finetune", "self_critical")
_DRAWN_FROM = 100  # likeliest words: sorting all of them for each draw would take most of the time


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_args(argv)
    try:
        train(args)
    except (BackboneError, BundleError, DataError, ImageError, MetricsError, ValueError, OSError) as error:
        print(f"model.train: {error}", file=sys.stderr)
        return 2
    return 0


def train(args: argparse.Namespace) -> list[Epoch]:
    """Trains as the options say and leaves a bundle at `args.output`; returns the log."""
    options = TrainingOptions(**{field.name: getattr(args, field.name) for field in fields(TrainingOptions)})
    training, validation = _examples(args)
    keras.utils.set_random_seed(options.seed)
    captioner, origin = _begin(args, training)
    print(
        f"{len(training):,} photographs, {len(validation):,} for validation, {len(captioner.vocabulary):,} words",
        flush=True,
    )
    folder = _workplace(args)
    folder.mkdir(parents=True, exist_ok=True)
    learner, validate = _learner(args, captioner, training, validation, folder, origin)

    def keep(epoch: Epoch) -> None:
        save_bundle(args.output, captioner, _card(args, captioner.config, len(training), epoch))

    recipe = {name: getattr(args, name) for name in ("dropout", *_of_method(args))} | {"origin": origin}
    log = Trainer(learner, options, recipe, folder, validate, keep).train()
    best = max(log, key=lambda epoch: epoch.validation_cider)
    print(f"{args.output}: epoch {best.epoch}, validation CIDEr {best.validation_cider:.1f} (greedy)", flush=True)
    return log


def _begin(args: argparse.Namespace, training: Sequence[Example]) -> tuple[Captioner, str]:
    """The captioner before its first step, and what tells its backbone's weights."""
    if args.init:
        start = load_captioner(args.init)
        config = replace(start.config, dropout=args.dropout)
        encoder, decoder = build_network(config, len(start.vocabulary))
        given = named_variables(start.encoder, start.decoder)
        for name, variable in named_variables(encoder, decoder).items():
            variable.assign(given[name])
        vocabulary, origin = start.vocabulary, start.version
    else:
        config = CaptionerConfig(
            backbone=args.backbone,
            input_size=args.input_size or backbone_named(args.backbone).input_size,
            units=args.units,
            embedding_units=args.units,
            max_words=args.max_words,
            initial_state=args.initial_state,
            dropout=args.dropout,
        )
        vocabulary = Vocabulary.build((text for example in training for text in example.captions), args.min_count)
        encoder, decoder = build_network(config, len(vocabulary), _keras_weights(args.backbone_weights))
        load_backbone(encoder, args.backbone_weights)
        origin = f"{args.backbone} {args.backbone_weights} {config.input_size} {args.seed}"
    # Epochs are compared by the network's own words: the guard against repetition would flatter one that stutters.
    decoding = Decoding(method="greedy", no_repeat_ngram=0)
    return Captioner(config, vocabulary, encoder, decoder, decoding=decoding), origin


def _learner(
    args: argparse.Namespace,
    captioner: Captioner,
    training: Sequence[Example],
    validation: Sequence[Example],
    folder: Path,
    origin: str,
) -> tuple[Learner, Validation]:
    """What `--method` names, and its validation."""
    encoder, decoder, config = captioner.encoder, captioner.decoder, captioner.config
    size, words = config.input_size, _words(training, captioner.vocabulary, config)
    if args.method == "finetune":
        images = cached_images(with_margin(size), training, folder / "train")
        learner = FineTuning(encoder, decoder, words, images, args.tuned_share, args.label_smoothing)
        pictures = cached_images(size, validation, folder / "validation")
        return learner, Validation(captioner, validation, pictures, encoder)
    features = cached_features(encoder, size, training, folder / "train", origin, args.views)
    held_out = cached_features(encoder, size, validation, folder / "validation", origin, 1)[:, 0]
    validate = Validation(captioner, validation, held_out, _from_grid(captioner))
    if args.method == "self_critical":
        draw = _drawing(captioner, args.samples)
        return SelfCritical(
            encoder, decoder, words, features, args.label_smoothing, draw, args.forcing, args.samples
        ), validate
    return FrozenBackbone(encoder, decoder, words, features, args.label_smoothing), validate


def _from_grid(captioner: Captioner) -> Callable[[Tensor], Tensor]:
    """The backbone's features float16[B, L, C] -> float32[B, L, U]."""
    return lambda grid: captioner.encoder.projection(tf.cast(grid, tf.float32))


def _drawing(captioner: Captioner, captions: int) -> Draw:
    """Captions drawn from the decoder as it stands: grid float16[B, L, C], float32[B, K, T] -> int32[B, K, T]."""
    decoding = Decoding("sample", num_captions=captions, top_k=_DRAWN_FROM, no_repeat_ngram=0)
    drawer = Captioner(captioner.config, captioner.vocabulary, captioner.encoder, captioner.decoder, decoding=decoding)
    encode = _from_grid(captioner)

    def draw(grid: Tensor, uniforms: Tensor) -> Tensor:
        return drawer.caption_features(encode(grid), uniforms).words

    return tf.function(draw, autograph=False)


def load_backbone(encoder: Encoder, weights: str) -> None:
    """Puts a file's arrays into the encoder's backbone: one of `model.convert_efficientnet_lite`, or of a bundle."""
    if weights in ("imagenet", "none"):
        return
    arrays = load_file(weights)
    of_bundle = {
        name.removeprefix(BACKBONE_PREFIX): a for name, a in arrays.items() if name.startswith(BACKBONE_PREFIX)
    }
    arrays = of_bundle or arrays
    variables = named_backbone_variables(encoder)
    if {name: array.shape for name, array in arrays.items()} != {name: v.shape for name, v in variables.items()}:
        raise ValueError(f"{weights} does not fit the backbone {encoder.backbone.name}: {len(arrays)} other arrays")
    for name, variable in variables.items():
        variable.assign(arrays[name].astype(np.float32))


def _words(examples: Sequence[Example], vocabulary: Vocabulary, config: CaptionerConfig) -> Words:
    """All captions, int32[N, K, T + 1]; photographs with fewer than K captions are filled up with padding."""
    most = max(len(example.captions) for example in examples)
    words = np.full((len(examples), most, config.max_words + 2), PAD, np.int32)
    for row, example in zip(words, examples, strict=True):
        for place, caption in zip(row, example.captions, strict=False):
            place[:] = vocabulary.encode(caption, config.max_words)
    return words


def _examples(args: argparse.Namespace) -> tuple[list[Example], list[Example]]:
    """Photographs to train on and to validate with; without --validation one in twenty is held out."""
    images = args.images
    if images is None and args.data.startswith(TFDS):
        images = str(_workplace(args) / "photographs")
    examples = read_examples(args.data, images)
    if args.validation:
        return examples, read_examples(args.validation, images)
    if len(examples) < 2:
        raise DataError(f"{args.data} holds one photograph; give others with --validation")
    return [e for n, e in enumerate(examples) if n % 20], examples[::20]


def _workplace(args: argparse.Namespace) -> Path:
    return args.output.parent / f"{args.output.name}.training"


def _keras_weights(weights: str) -> str | None:
    return "imagenet" if weights == "imagenet" else None


def _card(args: argparse.Namespace, config: CaptionerConfig, photographs: int, epoch: Epoch) -> str:
    """A model card of what the command knows; people add what only they know."""
    names = [*_of_method(args), "dropout", *(field.name for field in fields(TrainingOptions))]
    options = " ".join(f"--{name}={getattr(args, name)}" for name in names)
    return f"""# Model card

An image captioner: {config.backbone} encoder, GRU decoder with attention.

| | |
|---|---|
| trained on | {Path(args.data).name}, {photographs:,} photographs |
| started from | {_origin(args)} |
| epoch | {epoch.epoch} of {args.epochs} |
| validation CIDEr, greedy decoding, words split at blanks | {epoch.validation_cider:.1f} |
| command | `python -m model.train {options}` |
"""


def _of_method(args: argparse.Namespace) -> list[str]:
    """The options that `--method` reads, itself among them."""
    read = {"frozen": ["views"], "finetune": ["tuned_share"], "self_critical": ["views", "samples", "forcing"]}
    return ["method", *read[args.method]]


def share_of(text: str) -> float:
    """A number from 0 to 1, for argparse."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, not {text}")
    return value


def _origin(args: argparse.Namespace) -> str:
    if args.init:
        return f"the bundle {check_bundle(args.init)}"
    return "backbone weights: " + (
        args.backbone_weights if args.backbone_weights in ("imagenet", "none") else "from a file"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        required=True,
        help="Parquet files (image, captions), a captions JSON of COCO, or tfds:NAME[:SPLIT], such as "
        "tfds:coco_captions",
    )
    data.add_argument("--validation", help="the same for choosing the epoch (default: every 20th photograph of --data)")
    data.add_argument(
        "--images",
        help="folder of the image files (default: the folder of --data; with tfds:, BUNDLE.training/photographs)",
    )
    data.add_argument("--output", required=True, type=Path, help="folder of the bundle to write")
    _add_model_options(parser)
    _add_training_options(parser)
    return parser


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    model = CaptionerConfig()
    shape = parser.add_argument_group("model (all but --dropout come from the bundle where --init names one)")
    shape.add_argument("--init", type=Path, help="a bundle to go on from")
    shape.add_argument("--backbone", default=model.backbone, choices=BACKBONES, help=f"default: {model.backbone}")
    shape.add_argument(
        "--backbone_weights",
        default="imagenet",
        help="imagenet (downloaded by Keras), none (random), or a safetensors file: a bundle's, or one that "
        "model.convert_efficientnet_lite wrote (default: imagenet)",
    )
    shape.add_argument("--input_size", type=int, help="pixels a side (default: the backbone's own)")
    shape.add_argument("--units", type=int, default=model.units, help=f"width of the decoder (default: {model.units})")
    shape.add_argument("--max_words", type=int, default=model.max_words, help=f"default: {model.max_words}")
    shape.add_argument(
        "--initial_state",
        default=model.initial_state,
        choices=INITIAL_STATES,
        help=f"the GRU's first state (default: {model.initial_state})",
    )
    shape.add_argument("--dropout", type=float, default=model.dropout, help=f"default: {model.dropout}")
    shape.add_argument("--min_count", type=int, default=4, help="a word must be seen this often (default: 4)")


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    training = TrainingOptions()
    learning = parser.add_argument_group("training")
    learning.add_argument("--method", default=METHODS[0], choices=METHODS, help=f"see above (default: {METHODS[0]})")
    learning.add_argument(
        "--tuned_share",
        type=share_of,
        default=0.6,
        help="finetune: how many of the backbone's layers learn, from the top, 0 to 1 (default: 0.6)",
    )
    learning.add_argument(
        "--views",
        type=int,
        default=2,
        help="frozen, self_critical: features of each photograph, 1 as it is, 2 also in a mirror, more also cropped, "
        "mirrored and relit by chance (default: 2)",
    )
    learning.add_argument(
        "--samples", type=int, default=5, help="self_critical: captions drawn for a photograph (default: 5)"
    )
    learning.add_argument(
        "--forcing",
        type=share_of,
        default=0.2,
        help="self_critical: weight of people's captions in the loss, 0 to 1 (default: 0.2)",
    )
    for field in fields(TrainingOptions):
        default = getattr(training, field.name)
        learning.add_argument(f"--{field.name}", type=type(default), default=default, help=f"default: {default}")


if __name__ == "__main__":
    sys.exit(main())
