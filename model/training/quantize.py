"""Converts the backbone of a bundle from floating point to 8-bit integers.

    python -m model quantize tuned --data=TRAIN.parquet --output=tuned8

Batch normalization is folded into the convolutions. Each layer's range is measured on images: the range whose 256
values have the smallest squared rounding error is used. The weights are rounded by `model.training.rounding`. Then each
bias is corrected so that rounding leaves the mean of every channel unchanged (M. Nagel et al. 2019, "Data-Free
Quantization Through Weight Equalization and Bias Correction", section 4.2). On a CPU with VNNI, LiteRT runs the result
in two fifths of the time. The decoder is copied; continue its training from the new bundle (`python -m model train
--init`) to adapt it to the slightly different features.

If the backbone already has 8 bits, its weights are only rounded again, so that --engine=openvino can run it on a CPU
without VNNI.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from model.bundle import check_bundle, load_captioner, load_config
from model.bundle_writer import check_replaceable, save_bundle
from model.captioner import Captioner
from model.config import CaptionerConfig
from model.efficientnet_lite import NORM_EPSILON
from model.int8_layers import LARGEST_WEIGHT, STEPS, Int8Convolution, Int8Range
from model.network import BACKBONE_PREFIX, Encoder, build_network, named_backbone_variables, named_variables
from model.training.command import EXIT_OK, command_parser, run_command
from model.training.data import read_examples
from model.training.rounding import round_backbone

Array = npt.NDArray[np.float32]
_BATCH = 16
_SAMPLE = 200_000  # values of each layer's output, from all images
_SHARES = np.linspace(1.0, 0.3, 36)  # candidate ranges, as shares of the observed range


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_args(argv)

    def run() -> int:
        version = quantize(args.bundle, args.data, args.photographs, args.output)
        print(f"{args.output}: {version}")
        return EXIT_OK

    return run_command("quantize", run)


def quantize(bundle: Path, data: str, photographs: int, output: Path) -> str:
    """Writes the bundle and returns its version.

    Args:
      bundle: a bundle with an EfficientNet-Lite.
      data: images, as for `python -m model train --data`.
      photographs: number of images to measure ranges on, evenly spaced in the data.
      output: folder of the new bundle.

    Raises:
      BundleError: the bundle is damaged, or `output` holds something else.
      DataError, ImageError, OSError: an image cannot be read.
      ValueError: the backbone has no 8-bit form, or `photographs` is less than 1.
    """
    if photographs < 1:
        raise ValueError(f"photographs must be a whole number from 1, not {photographs}")
    check_replaceable(output)
    check_bundle(bundle)
    given = load_config(bundle)
    config = replace(given, int8=True)  # refused at once, before a network is built
    start = load_captioner(bundle)
    examples = read_examples(data)
    chosen = examples[:: max(1, len(examples) // photographs)][:photographs]
    images = np.stack([example.load(config.input_size).pixels for example in chosen])
    captioner = start
    if config == given:
        round_backbone(start.encoder, images)
    else:
        captioner = _quantized(start, config, images)
    return save_bundle(output, captioner, f"# Model card\n\n{start.version} with an 8-bit backbone.\n")


def _quantized(start: Captioner, config: CaptionerConfig, images: npt.NDArray[np.uint8]) -> Captioner:
    """A captioner with an 8-bit backbone, and otherwise the weights of `start`."""
    encoder, decoder = build_network(config, len(start.vocabulary))
    source = named_variables(start.encoder, start.decoder)
    for name, variable in named_variables(encoder, decoder).items():
        if name in source and "backbone" not in name:
            variable.assign(source[name])
    fold(start.encoder.backbone, encoder.backbone)
    measure(start.encoder, encoder.backbone, images)
    round_backbone(encoder, images)
    correct_biases(start.encoder, encoder.backbone, images)
    return Captioner(config, start.vocabulary, encoder, decoder)


def fold(source: keras.Model, target: keras.Model) -> None:
    """Folds each convolution of `source` and its batch normalization into one of `target`; rounds no weights."""
    for layer in target.layers:
        if isinstance(layer, Int8Convolution):
            [kernel] = source.get_layer(layer.name).get_weights()
            norm = source.get_layer(f"{layer.name}_norm")
            gamma, beta, mean, variance = norm.get_weights()
            factor = gamma / np.sqrt(variance + norm.epsilon)
            kernel = kernel * (factor[:, None] if layer.depthwise else factor)
            step = few_bits(np.abs(kernel).max(axis=(0, 1, 3) if layer.depthwise else (0, 1, 2)) / LARGEST_WEIGHT)
            layer.kernel.assign(kernel / (step[:, None] if layer.depthwise else step))
            layer.step.assign(step)
            layer.bias.assign(beta - mean * factor)


def is_int8(arrays: Mapping[str, Any]) -> bool:
    """Whether arrays, named as by `network.named_backbone_variables`, belong to an 8-bit backbone."""
    return any(name.endswith("/step") for name in arrays)


def float_weights(captioner: Captioner) -> dict[str, Array]:
    """A captioner's weights by their names in a bundle; those of an 8-bit backbone are converted by `dequantize`."""
    weights = {name: np.asarray(v) for name, v in named_variables(captioner.encoder, captioner.decoder).items()}
    if not captioner.config.int8:
        return weights
    backbone = dequantize(named_backbone_variables(captioner.encoder))
    others = {name: array for name, array in weights.items() if not name.startswith(BACKBONE_PREFIX)}
    return others | {f"{BACKBONE_PREFIX}{name}": array for name, array in backbone.items()}


def dequantize(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Converts the arrays of an 8-bit backbone to those of the same backbone in floating point, for training.

    Rounded weights stay rounded, and batch normalization only adds the bias.

    Args:
      arrays: by the names of `network.named_backbone_variables`.

    Raises:
      KeyError: an array is missing.
    """
    found: dict[str, Array] = {}
    convolutions = sorted(name.removesuffix("/kernel") for name in arrays if name.endswith("/kernel"))
    for number, layer in enumerate(convolutions):
        kernel, step, bias = (np.asarray(arrays[f"{layer}/{name}"], np.float32) for name in ("kernel", "step", "bias"))
        depthwise = kernel.shape[2:] == (len(step), 1)
        found[f"{2 * number:03d}/kernel"] = kernel * (step[:, None] if depthwise else step)
        ones = np.ones_like(bias)
        norm = {"gamma": ones, "beta": bias, "moving_mean": 0 * ones, "moving_variance": (1 - NORM_EPSILON) * ones}
        found |= {f"{2 * number + 1:03d}/{name}": array for name, array in norm.items()}
    return found


def measure(encoder: Encoder, target: keras.Model, images: npt.NDArray[np.uint8]) -> None:
    """Sets the ranges of `target` by the outputs of the backbone of `encoder` for `images`, uint8[N, S, S, 3]."""
    ranges = {layer.name: layer for layer in target.layers if isinstance(layer, Int8Range)}
    outputs = {
        layer.name: layer.output
        for layer in encoder.backbone.layers
        if layer.name.endswith(("_relu", "_add", "_project_norm"))
    }
    watched = keras.Model(encoder.backbone.input, outputs)
    compute = tf.function(lambda batch: watched(encoder.rescale(batch)), autograph=False)
    rng = np.random.default_rng(0)
    samples: dict[str, list[Array]] = {}
    for start in range(0, len(images), _BATCH):
        for name, found in compute(images[start : start + _BATCH]).items():
            values = np.asarray(found).ravel()
            stage, _, _ = name.partition("_")
            range_name = f"{name.removesuffix('_relu') if name.endswith('_relu') else stage}_range"
            samples.setdefault(range_name, []).append(rng.choice(values, _SAMPLE * _BATCH // len(images)))
    for name, chunks in samples.items():
        step, zero = best_range(np.concatenate(chunks))
        ranges[name].step.assign(step)
        ranges[name].zero.assign(zero)


def correct_biases(encoder: Encoder, target: keras.Model, images: npt.NDArray[np.uint8]) -> None:
    """Corrects the biases of `target`, so that each channel has the mean that it has in the backbone of `encoder`.

    Layers are corrected in order, since the mean of a layer depends on the rounding in all earlier ones.

    Args:
      encoder: with the backbone in floating point.
      target: the 8-bit backbone.
      images: uint8[N, S, S, 3].
    """
    folded = [layer for layer in target.layers if isinstance(layer, Int8Convolution)]
    norms = {layer.name: encoder.backbone.get_layer(f"{layer.name}_norm").output for layer in folded}
    expected = _channel_means(encoder, encoder.backbone, norms, images)
    for layer in folded:
        numbers, step = layer.output
        found = _channel_means(encoder, target, {layer.name: numbers * step}, images)
        layer.bias.assign_add(expected[layer.name] - found[layer.name])


def _channel_means(
    encoder: Encoder, backbone: keras.Model, outputs: dict[str, Any], images: npt.NDArray[np.uint8]
) -> dict[str, Array]:
    """The mean of each channel of `outputs` over all images and positions: float32[C] for each output."""
    watched = keras.Model(backbone.input, outputs)
    means: dict[str, Any] = dict.fromkeys(outputs, 0.0)
    for batch in np.split(images, range(_BATCH, len(images), _BATCH)):
        for name, found in watched(encoder.rescale(batch)).items():
            means[name] += np.asarray(found).mean(axis=(0, 1, 2)) * (len(batch) / len(images))
    return means


def best_range(values: Array) -> tuple[float, int]:
    """The step, and the number of values below 0, of the range that rounds float32[N] with the least squared error."""
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))

    def evaluate(share: float) -> tuple[float, float, int]:
        step = float(few_bits(np.float32(max(1e-6, (high - low) * share / STEPS))))
        zero = min(STEPS, round(-low * share / step))
        rounded = np.clip(np.round(values / step), -zero, STEPS - zero) * step
        return float(((rounded - values) ** 2).sum()), step, zero

    _, step, zero = min(map(evaluate, _SHARES))
    return step, zero


def few_bits(steps: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Rounds float32[...] up to numbers with 11 bits, whose products float32 represents exactly."""
    mantissa, exponent = np.frexp(np.maximum(steps, 1e-12))
    return np.ldexp(np.ceil(mantissa * 2**11) / 2**11, exponent).astype(np.float32)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("quantize", __doc__)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle with an EfficientNet-Lite")
    parser.add_argument("--data", required=True, help="images to measure the ranges on, as for `python -m model train`")
    parser.add_argument("--photographs", type=int, default=256, help="number of images (default: 256)")
    parser.add_argument("--output", required=True, type=Path, help="folder of the bundle to write")
    return parser
