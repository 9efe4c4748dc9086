"""Trains a captioner: the encoder's features are computed once, the decoder learns from them by teacher forcing.

    python -m model.train --data=TRAIN.parquet --validation=DEV.parquet --output=BUNDLE

writes the bundle of the epoch with the best validation CIDEr. `BUNDLE.training/` keeps the features, a checkpoint
and the log; the same command, given again after an interruption, goes on after the last whole epoch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from safetensors.numpy import load_file

from model.backbones import BACKBONES, BackboneError, backbone_named
from model.bundle import save_bundle
from model.captioner import Captioner
from model.config import INITIAL_STATES, CaptionerConfig, Decoding
from model.data import DataError, Example, read_examples
from model.features import Features, cached_features
from model.metrics import MetricsError, quick_cider
from model.network import BACKBONE_PREFIX, Encoder, build_network, named_backbone_variables
from model.preprocessing import ImageError
from model.trainer import Epoch, Trainer, TrainingOptions, Words
from model.vocabulary import PAD, Vocabulary

Tensor = Any
_VALIDATION_BATCH = 100


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_args(argv)
    try:
        train(args)
    except (BackboneError, DataError, ImageError, MetricsError, ValueError, OSError) as error:
        print(f"model.train: {error}", file=sys.stderr)
        return 2
    return 0


def train(args: argparse.Namespace) -> list[Epoch]:
    """Trains as the options say and leaves a bundle at `args.output`; returns the log."""
    config = CaptionerConfig(
        backbone=args.backbone,
        input_size=args.input_size or backbone_named(args.backbone).input_size,
        units=args.units,
        embedding_units=args.units,
        max_words=args.max_words,
        initial_state=args.initial_state,
        dropout=args.dropout,
    )
    options = TrainingOptions(**{field.name: getattr(args, field.name) for field in fields(TrainingOptions)})
    training, validation = _examples(args)
    vocabulary = Vocabulary.build((text for example in training for text in example.captions), args.min_count)
    print(f"{len(training):,} photographs, {len(validation):,} for validation, {len(vocabulary):,} words", flush=True)

    keras.utils.set_random_seed(options.seed)
    encoder, decoder = build_network(config, len(vocabulary), _keras_weights(args.backbone_weights))
    load_backbone(encoder, args.backbone_weights)
    folder = args.output.parent / f"{args.output.name}.training"
    folder.mkdir(parents=True, exist_ok=True)
    key = f"{args.backbone} {args.backbone_weights} {config.input_size} {options.seed}"
    features = cached_features(encoder, config.input_size, training, folder / "train", key, flips=True)
    held_out = cached_features(encoder, config.input_size, validation, folder / "validation", key, flips=False)
    # Epochs are compared by the network's own words: the guard against repetition would flatter one that stutters.
    decoding = Decoding(method="greedy", no_repeat_ngram=0)
    captioner = Captioner(config, vocabulary, encoder, decoder, decoding=decoding)
    validate = Validation(captioner, validation, held_out)

    def keep(epoch: Epoch) -> None:
        save_bundle(args.output, captioner, _card(args, config, len(training), epoch))

    log = Trainer(encoder, decoder, options, folder, validate, keep).train(
        features, _words(training, vocabulary, config)
    )
    best = max(log, key=lambda epoch: epoch.validation_cider)
    print(f"{args.output}: epoch {best.epoch}, validation CIDEr {best.validation_cider:.1f} (greedy)", flush=True)
    return log


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


class Validation:
    """CIDEr of greedy captions, from features: the validation score of an epoch.

    Args:
      captioner: as it stands when the score is asked for.
      examples: the photographs, N.
      features: their backbone features, float16[N, 1, L, C].
    """

    def __init__(self, captioner: Captioner, examples: Sequence[Example], features: Features) -> None:
        self._captioner = captioner
        self._references = {example.image_id: example.captions for example in examples}
        self._features = features
        self._compiled = tf.function(self._words, autograph=False)

    def __call__(self) -> float:
        captions: list[str] = []
        for start in range(0, len(self._features), _VALIDATION_BATCH):
            words = self._compiled(self._features[start : start + _VALIDATION_BATCH, 0])
            captions.extend(self._captioner.vocabulary.decode(row) for row in words.numpy()[:, 0])
        return quick_cider(
            self._references, {name: [said] for name, said in zip(self._references, captions, strict=True)}
        )

    def _words(self, grid: Tensor) -> Tensor:
        """The backbone's features float16[B, L, C] -> words int32[B, 1, T]."""
        features = self._captioner.encoder.projection(tf.cast(grid, tf.float32))
        return self._captioner.caption_features(features).words


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
    examples = read_examples(args.data, args.images)
    if args.validation:
        return examples, read_examples(args.validation, args.images)
    if len(examples) < 2:
        raise DataError(f"{args.data} holds one photograph; give others with --validation")
    return [e for n, e in enumerate(examples) if n % 20], examples[::20]


def _keras_weights(weights: str) -> str | None:
    return "imagenet" if weights == "imagenet" else None


def _card(args: argparse.Namespace, config: CaptionerConfig, photographs: int, epoch: Epoch) -> str:
    """A model card of what the command knows; people add what only they know."""
    options = " ".join(f"--{field.name}={getattr(args, field.name)}" for field in fields(TrainingOptions))
    return f"""# Model card

An image captioner: {config.backbone} encoder, GRU decoder with attention.

| | |
|---|---|
| trained on | {Path(args.data).name}, {photographs:,} photographs |
| backbone weights | {args.backbone_weights if args.backbone_weights in ("imagenet", "none") else "from a file"} |
| epoch | {epoch.epoch} of {args.epochs} |
| validation CIDEr, greedy decoding, words split at blanks | {epoch.validation_cider:.1f} |
| command | `python -m model.train {options}` |
"""


def _parser() -> argparse.ArgumentParser:
    model, training = CaptionerConfig(), TrainingOptions()
    parser = argparse.ArgumentParser(
        prog="python -m model.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    data = parser.add_argument_group("data")
    data.add_argument("--data", required=True, help="Parquet files (image, captions) or a captions JSON of COCO")
    data.add_argument("--validation", help="the same for choosing the epoch (default: every 20th photograph of --data)")
    data.add_argument("--images", help="folder of the image files (default: the folder of --data)")
    data.add_argument("--output", required=True, type=Path, help="folder of the bundle to write")
    shape = parser.add_argument_group("model")
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
    learning = parser.add_argument_group("training")
    for field in fields(TrainingOptions):
        default = getattr(training, field.name)
        learning.add_argument(f"--{field.name}", type=type(default), default=default, help=f"default: {default}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
