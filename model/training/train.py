"""Trains a captioner with one of three methods, each of which can start from the bundle of another (`--init`).

    python -m model train --data=TRAIN.parquet --validation=DEV.parquet --output=BUNDLE

frozen          trains the decoder on human captions; the backbone's features are computed once
finetune        also trains the upper layers of the backbone, on images with random crops, mirroring and brightness; an
                8-bit backbone is trained in floating point (`python -m model quantize` converts it back)
self_critical   rewards the decoder's own captions by their CIDEr-D; with --tuned_share it also trains the backbone

The bundle of the epoch with the best validation CIDEr is written to BUNDLE. `BUNDLE.training/` holds a checkpoint, the
log and, if TensorBoard is installed, its events. Repeat the same command to resume after the last complete epoch.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from model.bundle import check_bundle
from model.bundle_writer import check_replaceable, save_bundle
from model.training.command import EXIT_OK, run_command
from model.training.data import TFDS, DataError, Example, hash_examples, hash_texts, read_examples
from model.training.train_options import parse_train_options, recipe_options, training_options

if TYPE_CHECKING:
    from model.training.trainer import Epoch

_HELD_OUT = 20  # without --validation, every 20th image is held out


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = parse_train_options(__doc__, argv)

    def run() -> int:
        train(args)
        return EXIT_OK

    return run_command("train", run)


def train(args: argparse.Namespace) -> list[Epoch]:
    """Trains as the options say and writes a bundle to `args.output`; returns the log."""
    options = training_options(args)
    check_replaceable(args.output)
    training, validation = _read_data(args)

    import keras

    from model.training.methods import create_learner
    from model.training.sentences import WithSentences, encode_sentences, read_sentences
    from model.training.start import create_captioner
    from model.training.trainer import Trainer

    keras.utils.set_random_seed(options.seed)
    sentences = [sentence for path in args.sentences for sentence in read_sentences(path)]
    captioner, origin = create_captioner(args, training, sentences)
    held_out = sum(map(len, validation))
    print(f"{len(training):,} images, {held_out:,} for validation, {len(captioner.vocabulary):,} words", flush=True)
    folder = _training_folder(args)
    folder.mkdir(parents=True, exist_ok=True)
    learner, validate = create_learner(args, captioner, training, validation, args.cache_features or folder)
    if sentences:
        encoded = encode_sentences(sentences, captioner.vocabulary, captioner.config.max_words)
        learner = WithSentences(learner, encoded, args.sentence_weight, options.label_smoothing)

    def keep(epoch: Epoch) -> None:
        save_bundle(args.output, captioner, _model_card(args, captioner.config.backbone, len(training), epoch))

    recipe = {name: getattr(args, name) for name in recipe_options(args)} | {
        "origin": origin,
        "training data": hash_examples(training),
        "validation data": [hash_examples(examples) for examples in validation],
        "sentences": hash_texts(sentences),
    }
    log = Trainer(learner, options, recipe, folder, validate, keep).train()
    best = max(log, key=lambda epoch: epoch.validation_cider)
    print(f"{args.output}: epoch {best.epoch}, validation CIDEr {best.validation_cider:.1f} (greedy)", flush=True)
    return log


def _read_data(args: argparse.Namespace) -> tuple[list[Example], list[list[Example]]]:
    """The training images, and the sets of validation images."""

    def read(data: str) -> list[Example]:
        downloads = str(_training_folder(args) / "photographs") if data.startswith(TFDS) else None
        return read_examples(data, args.images or downloads)

    examples = [example for data in args.data for example in read(data)]
    if args.validation:
        return examples, [read(data) for data in args.validation]
    if len(examples) < 2:
        raise DataError(f"{args.data[0]} contains one image; set --validation to other data")
    return [e for n, e in enumerate(examples) if n % _HELD_OUT], [examples[::_HELD_OUT]]


def _training_folder(args: argparse.Namespace) -> Path:
    return args.output.parent / f"{args.output.name}.training"


def _model_card(args: argparse.Namespace, backbone: str, images: int, epoch: Epoch) -> str:
    """A model card with what the command knows; people add the rest."""
    values = {name: getattr(args, name) for name in recipe_options(args)} | asdict(training_options(args))
    options = " ".join(f"--{name}={value}" for name, value in values.items())
    return f"""# Model card

An image captioner: {backbone} encoder, GRU decoder with attention.

| | |
|---|---|
| trained on | {", ".join(Path(data).name for data in args.data)}, {images:,} images |
| started from | {_origin(args)} |
| epoch | {epoch.epoch} of {args.epochs} |
| validation CIDEr, greedy decoding, words split at blanks | {epoch.validation_cider:.1f} |
| command | `python -m model train {options}` |
"""


def _origin(args: argparse.Namespace) -> str:
    if args.init:
        return f"the bundle {check_bundle(args.init)}"
    weights = args.backbone_weights
    return f"backbone weights: {weights if weights in ('bundled', 'imagenet', 'none') else 'from a file'}"
