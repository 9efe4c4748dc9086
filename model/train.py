"""Trains a captioner in one of three ways, each of which can go on from the bundle of another (`--init`).

    python -m model.train --data=TRAIN.parquet --validation=DEV.parquet --output=BUNDLE

frozen          the backbone stays as it is; its features are computed once, the decoder learns from people's captions
finetune        the upper part of the backbone learns too, from photographs that are cropped, mirrored and relit;
                one of 8-bit whole numbers learns in floating point (`model.quantize` is the way back)
self_critical   captions of the decoder rewarded by their CIDEr-D; with --tuned_share the backbone learns too

The bundle of the epoch with the best validation CIDEr is written. `BUNDLE.training/` keeps a
checkpoint, the log and, where TensorBoard is installed, its events; the same command, given again after an
interruption, goes on after the last whole epoch.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from safetensors import SafetensorError
from safetensors.numpy import load_file

from model.backbones import BackboneError, backbone_named
from model.bundle import BundleError, check_bundle, load_captioner, save_bundle
from model.captioner import Captioner
from model.config import CaptionerConfig, Decoding
from model.data import TFDS, DataError, Example, read_examples
from model.features import Views, cached_features, cached_images, with_margin
from model.language import FUNCTION_WORDS
from model.learners import Draw, FineTuning, FrozenBackbone, Learner, SelfCritical, Words, references
from model.metrics import MetricsError
from model.network import BACKBONE_PREFIX, Encoder, build_network, named_backbone_variables, named_variables
from model.preprocessing import ImageError
from model.quantize import floating, is_int8
from model.reward import Caption, CiderD, Reward, UnigramF
from model.sentences import WithSentences, encode_sentences, read_sentences
from model.train_options import train_parser
from model.trainer import Epoch, Trainer, TrainingOptions
from model.validation import Validation, mean_validation
from model.vocabulary import END, PAD, Vocabulary

Tensor = Any


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = train_parser(__doc__).parse_args(argv)
    try:
        train(args)
    except (BackboneError, BundleError, DataError, ImageError, MetricsError, ValueError, OSError) as error:
        print(f"model.train: {error}", file=sys.stderr)
        return 2
    return 0


def train(args: argparse.Namespace) -> list[Epoch]:
    """Trains as the options say and leaves a bundle at `args.output`; returns the log."""
    options = TrainingOptions(**{field.name: getattr(args, field.name) for field in fields(TrainingOptions)})
    args.tuned_share = _tuned_share(args)
    training, validation = _examples(args)
    keras.utils.set_random_seed(options.seed)
    sentences = [sentence for path in args.sentences for sentence in read_sentences(path)]
    captioner, origin = _begin(args, training, sentences)
    print(
        f"{len(training):,} photographs, {sum(map(len, validation)):,} for validation, "
        f"{len(captioner.vocabulary):,} words",
        flush=True,
    )
    folder = _workplace(args)
    folder.mkdir(parents=True, exist_ok=True)
    cache = args.cache_features or folder
    learner, validate = _learner(args, captioner, training, validation, cache)
    if sentences:
        encoded = encode_sentences(sentences, captioner.vocabulary, captioner.config.max_words)
        learner = WithSentences(learner, encoded, args.sentence_weight, options.label_smoothing)

    def keep(epoch: Epoch) -> None:
        save_bundle(args.output, captioner, _card(args, captioner.config, len(training), epoch))

    recipe = {name: getattr(args, name) for name in _of_network(args)} | {"origin": origin}
    log = Trainer(learner, options, recipe, folder, validate, keep).train()
    best = max(log, key=lambda epoch: epoch.validation_cider)
    print(f"{args.output}: epoch {best.epoch}, validation CIDEr {best.validation_cider:.1f} (greedy)", flush=True)
    return log


def _begin(args: argparse.Namespace, training: Sequence[Example], sentences: Sequence[str]) -> tuple[Captioner, str]:
    """The captioner before its first step, and what tells where its weights come from."""
    if args.init:
        start = load_captioner(args.init)
        config = replace(
            start.config,
            dropout=args.dropout,
            input_size=args.input_size or start.config.input_size,
            length_penalty=CaptionerConfig.length_penalty,  # that of `start` was chosen for other weights
            int8=start.config.int8 and not args.tuned_share,
        )
        encoder, decoder = build_network(
            config, len(start.vocabulary), precision=args.precision, decoder_precision=args.decoder_precision
        )
        given = named_variables(start.encoder, start.decoder)
        if start.config.int8 and not config.int8:
            in_floating_point = floating(named_backbone_variables(start.encoder))
            given |= {f"{BACKBONE_PREFIX}{name}": array for name, array in in_floating_point.items()}
        for name, variable in named_variables(encoder, decoder).items():
            variable.assign(given[name])
        vocabulary, origin = start.vocabulary, start.version
    else:
        arrays = backbone_arrays(args.backbone_weights, learns=args.tuned_share > 0)
        config = CaptionerConfig(
            backbone=args.backbone,
            input_size=args.input_size or backbone_named(args.backbone).input_size,
            units=args.units,
            embedding_units=args.units,
            max_words=args.max_words,
            initial_state=args.initial_state,
            dropout=args.dropout,
            int8=is_int8(arrays),
        )
        captions = [text for example in training for text in example.captions]
        vocabulary = Vocabulary.build([*captions, *sentences], args.min_count)
        weights = _keras_weights(args.backbone_weights)
        encoder, decoder = build_network(config, len(vocabulary), weights, args.precision, args.decoder_precision)
        load_backbone(encoder, arrays, args.backbone_weights)
        origin = f"{args.backbone} {args.backbone_weights} {config.input_size} {args.seed}"
    # Epochs are compared by the network's own words: the guard against repetition would flatter one that stutters.
    decoding = Decoding(method="greedy", no_repeat_ngram=0)
    return Captioner(config, vocabulary, encoder, decoder, decoding=decoding), origin


def _learner(
    args: argparse.Namespace,
    captioner: Captioner,
    training: Sequence[Example],
    validation: Sequence[Sequence[Example]],
    cache: Path,
) -> tuple[Learner, Callable[[], float]]:
    """What `--method` names, and its validation."""
    encoder, decoder, config = captioner.encoder, captioner.decoder, captioner.config
    size, words = config.input_size, _words(training, captioner.vocabulary, config)
    looking: FineTuning | FrozenBackbone
    if args.tuned_share:
        images = cached_images(with_margin(size), training, cache / "train")
        looking = FineTuning(
            encoder, decoder, words, images, args.tuned_share, args.label_smoothing, args.smallest_crop
        )
        validate = mean_validation(
            Validation(captioner, examples, cached_images(size, examples, cache / "validation"), encoder)
            for examples in validation
        )
    else:
        key = f"{_fingerprint(encoder)} {args.precision} {size}"
        views = Views(args.views, args.smallest_crop)
        features = cached_features(encoder, size, training, cache / "train", key, views)
        looking = FrozenBackbone(encoder, decoder, words, features, args.label_smoothing, args.captions_per_step)
        validate = mean_validation(
            Validation(
                captioner,
                examples,
                cached_features(encoder, size, examples, cache / "validation", key, Views(1))[:, 0],
                encoder.project,
            )
            for examples in validation
        )
    if args.method != "self_critical":
        return looking, validate
    draw = _drawing(captioner, looking.features, args.samples)
    reward = _reward(references(words), captioner.vocabulary, args.f_weight, args.likeness_weight)
    return SelfCritical(looking, draw, args.forcing, args.samples, args.label_smoothing, reward), validate


def _reward(
    said: Sequence[Sequence[Caption]], vocabulary: Vocabulary, f_weight: float, likeness_weight: float
) -> Reward:
    """What captions are worth, beside what people said of the photographs."""
    cider = CiderD(said)
    # Its end counts as a function word: it is one that each caption has.
    function_words = {END, *(number for number, word in enumerate(vocabulary.words) if word in FUNCTION_WORDS)}
    unigram = UnigramF(said, frozenset(function_words))

    def reward(images: Sequence[int], drawn: Sequence[Sequence[Caption]]) -> list[list[float]]:
        likeness = cider.likeness(drawn) if likeness_weight else [[0.0] * len(captions) for captions in drawn]
        return [
            [
                cider(image, caption)
                + (f_weight * unigram(image, caption) if f_weight else 0.0)
                - likeness_weight * alike
                for caption, alike in zip(captions, others, strict=True)
            ]
            for image, captions, others in zip(images, drawn, likeness, strict=True)
        ]

    return reward


def _fingerprint(encoder: Encoder) -> str:
    """Of the backbone's weights: trainings of the decoder share what a backbone sees, whatever they began with."""
    digest = hashlib.sha256()
    for name, variable in sorted(named_backbone_variables(encoder).items()):
        digest.update(name.encode() + np.asarray(variable).tobytes())
    return digest.hexdigest()


def _tuned_share(args: argparse.Namespace) -> float:
    """How much of the backbone learns: by default that of the method."""
    if args.method == "frozen":
        return 0.0
    return {"finetune": 0.6, "self_critical": 0.0}[args.method] if args.tuned_share is None else args.tuned_share


def _drawing(captioner: Captioner, features: Callable[[Tensor], Tensor], captions: int) -> Draw:
    """Captions drawn from the network as it stands: what `features` takes, float32[B, K, T] -> int32[B, K, T]."""
    decoding = Decoding("sample", num_captions=captions, top_k=len(captioner.vocabulary), no_repeat_ngram=0)
    drawer = Captioner(captioner.config, captioner.vocabulary, captioner.encoder, captioner.decoder, decoding=decoding)

    def draw(seen: Tensor, uniforms: Tensor) -> Tensor:
        return drawer.caption_features(features(seen), uniforms).words

    return tf.function(draw, autograph=False)


def backbone_arrays(weights: str, learns: bool) -> dict[str, npt.NDArray[Any]]:
    """The backbone's arrays in a file of `model.convert_efficientnet_lite`, or of a bundle; none where it names none.

    Args:
      weights: the file, or "imagenet", or "none".
      learns: in floating point, whatever the file's backbone computes in.

    Raises:
      OSError: there is no such file.
      ValueError: it is not whole.
    """
    if weights in ("imagenet", "none"):
        return {}
    try:
        arrays = load_file(weights)
    except SafetensorError as error:
        raise ValueError(f"{weights} is not a whole safetensors file ({error}); make or copy it again") from error
    of_bundle = {
        name.removeprefix(BACKBONE_PREFIX): a for name, a in arrays.items() if name.startswith(BACKBONE_PREFIX)
    }
    arrays = of_bundle or arrays
    if not (is_int8(arrays) and learns):
        return arrays
    try:
        return floating(arrays)
    except KeyError as error:
        raise ValueError(f"{weights} lacks {error} of an 8-bit backbone; make it again by model.quantize") from error


def load_backbone(encoder: Encoder, arrays: Mapping[str, npt.NDArray[Any]], source: str) -> None:
    """Puts `arrays`, where there are any, into the encoder's backbone. Raises ValueError where they are of another."""
    variables = named_backbone_variables(encoder)
    if arrays and {name: a.shape for name, a in arrays.items()} != {name: v.shape for name, v in variables.items()}:
        raise ValueError(f"{source} does not fit the backbone {encoder.backbone.name}: {len(arrays)} other arrays")
    for name, array in arrays.items():
        variables[name].assign(array.astype(np.float32))


def _words(examples: Sequence[Example], vocabulary: Vocabulary, config: CaptionerConfig) -> Words:
    """All captions, int32[N, K, T + 1]; photographs with fewer than K captions are filled up with padding."""
    most = max(len(example.captions) for example in examples)
    words = np.full((len(examples), most, config.max_words + 2), PAD, np.int32)
    for row, example in zip(words, examples, strict=True):
        for place, caption in zip(row, example.captions, strict=False):
            place[:] = vocabulary.encode(caption, config.max_words)
    return words


def _examples(args: argparse.Namespace) -> tuple[list[Example], list[list[Example]]]:
    """Photographs to train on and sets to validate with; without --validation one in twenty is held out."""

    def read(data: str) -> list[Example]:
        kept = str(_workplace(args) / "photographs") if data.startswith(TFDS) else None
        return read_examples(data, args.images or kept)

    examples = [example for data in args.data for example in read(data)]
    if args.validation:
        return examples, [read(data) for data in args.validation]
    if len(examples) < 2:
        raise DataError(f"{args.data[0]} holds one photograph; give others with --validation")
    return [e for n, e in enumerate(examples) if n % 20], [examples[::20]]


def _workplace(args: argparse.Namespace) -> Path:
    return args.output.parent / f"{args.output.name}.training"


def _keras_weights(weights: str) -> str | None:
    return "imagenet" if weights == "imagenet" else None


def _card(args: argparse.Namespace, config: CaptionerConfig, photographs: int, epoch: Epoch) -> str:
    """A model card of what the command knows; people add what only they know."""
    names = [*_of_network(args), *(field.name for field in fields(TrainingOptions))]
    options = " ".join(f"--{name}={getattr(args, name)}" for name in names)
    return f"""# Model card

An image captioner: {config.backbone} encoder, GRU decoder with attention.

| | |
|---|---|
| trained on | {", ".join(Path(data).name for data in args.data)}, {photographs:,} photographs |
| started from | {_origin(args)} |
| epoch | {epoch.epoch} of {args.epochs} |
| validation CIDEr, greedy decoding, words split at blanks | {epoch.validation_cider:.1f} |
| command | `python -m model.train {options}` |
"""


def _of_network(args: argparse.Namespace) -> list[str]:
    """The options that the training depends on, beside `TrainingOptions`: `--method` and those that it reads."""
    looking = ["tuned_share", "smallest_crop"] if args.tuned_share else ["views", "smallest_crop"]
    if args.captions_per_step:
        looking.append("captions_per_step")
    rewarding = ["samples", "forcing", "f_weight", "likeness_weight"] if args.method == "self_critical" else []
    text = ["sentence_weight"] if args.sentences else []
    return ["method", *looking, *rewarding, *text, "input_size", "dropout", "precision", "decoder_precision"]


def _origin(args: argparse.Namespace) -> str:
    if args.init:
        return f"the bundle {check_bundle(args.init)}"
    return "backbone weights: " + (
        args.backbone_weights if args.backbone_weights in ("imagenet", "none") else "from a file"
    )


if __name__ == "__main__":
    sys.exit(main())
