"""The captioner that a training starts from: a bundle, or a new decoder on backbone weights from a file."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

from model.backbones import backbone_named
from model.bundle import DEFAULT_BUNDLE, load_captioner
from model.captioner import Captioner
from model.config import CaptionerConfig, Decoding
from model.network import BACKBONE_PREFIX, Encoder, build_network, named_backbone_variables, named_variables
from model.training.data import Example
from model.training.quantize import dequantize, float_weights, is_int8
from model.vocabulary import Vocabulary

# Epochs are compared by the network's own words: suppressing repetition would favour a network that repeats itself.
_DECODING = Decoding(method="greedy", no_repeat_ngram=0)


def create_captioner(
    args: argparse.Namespace, training: Sequence[Example], sentences: Sequence[str] = ()
) -> tuple[Captioner, str]:
    """The captioner before its first step, and a description of where its weights come from.

    The vocabulary of a new one has the words of the captions of `training` and of `sentences`.

    Raises:
      BackboneError, BundleError, OSError, ValueError: the bundle or the backbone's weights cannot be used.
    """
    return _from_bundle(args) if args.init else _from_backbone(args, training, sentences)


def _from_bundle(args: argparse.Namespace) -> tuple[Captioner, str]:
    start = load_captioner(args.init)
    config = replace(
        start.config,
        dropout=args.dropout,
        input_size=args.input_size or start.config.input_size,
        length_penalty=CaptionerConfig.length_penalty,  # the bundle's was chosen for other weights
        int8=start.config.int8 and not args.tuned_share,
    )
    encoder, decoder = build_network(
        config, len(start.vocabulary), precision=args.precision, decoder_precision=args.decoder_precision
    )
    arrays = named_variables(start.encoder, start.decoder) if config.int8 else float_weights(start)
    for name, variable in named_variables(encoder, decoder).items():
        variable.assign(arrays[name])
    return Captioner(config, start.vocabulary, encoder, decoder, decoding=_DECODING), start.version


def _from_backbone(
    args: argparse.Namespace, training: Sequence[Example], sentences: Sequence[str]
) -> tuple[Captioner, str]:
    arrays = backbone_arrays(args.backbone_weights, trainable=args.tuned_share > 0)
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
    weights = "imagenet" if args.backbone_weights == "imagenet" else None
    encoder, decoder = build_network(config, len(vocabulary), weights, args.precision, args.decoder_precision)
    load_backbone(encoder, arrays, args.backbone_weights)
    origin = f"backbone weights: {_hash_arrays(arrays) if arrays else args.backbone_weights}"
    return Captioner(config, vocabulary, encoder, decoder, decoding=_DECODING), origin


def _hash_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def backbone_arrays(weights: str, trainable: bool) -> dict[str, npt.NDArray[Any]]:
    """Reads the backbone's arrays from a bundle's weights, or from a file of `python -m model convert`.

    Args:
      weights: the file, or "bundled" for that of the bundled model; "imagenet" and "none" have no arrays.
      trainable: converts an 8-bit backbone to floating point.

    Raises:
      OSError: the file cannot be read.
      ValueError: the file is damaged.
    """
    if weights in ("imagenet", "none"):
        return {}
    try:
        arrays = load_file(DEFAULT_BUNDLE / "weights.safetensors" if weights == "bundled" else weights)
    except SafetensorError as error:
        raise ValueError(f"{weights} is not a whole safetensors file ({error}); copy or create it again") from error
    of_bundle = {
        name.removeprefix(BACKBONE_PREFIX): a for name, a in arrays.items() if name.startswith(BACKBONE_PREFIX)
    }
    arrays = of_bundle or arrays
    if not (is_int8(arrays) and trainable):
        return arrays
    try:
        return dequantize(arrays)
    except KeyError as error:
        raise ValueError(
            f"{weights} lacks {error} of an 8-bit backbone; create it again with `python -m model quantize`"
        ) from error


def load_backbone(encoder: Encoder, arrays: Mapping[str, npt.NDArray[Any]], source: str) -> None:
    """Assigns `arrays`, if there are any, to the encoder's backbone. Raises ValueError if they do not fit it."""
    variables = named_backbone_variables(encoder)
    if arrays and {name: a.shape for name, a in arrays.items()} != {name: v.shape for name, v in variables.items()}:
        raise ValueError(f"{source} does not fit the backbone {encoder.backbone.name}: its {len(arrays)} arrays differ")
    for name, array in arrays.items():
        variables[name].assign(array.astype(np.float32))
