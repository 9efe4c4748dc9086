"""Writes the weighted mean of several bundles as a new bundle.

    python -m model blend tuned rewarded --shares=0.5,0.5 --output=between

Training with rewards makes a captioner write few, safe sentences. The mean with the model before that training keeps
nearly all of the gain in metrics and has more varied captions (M. Wortsman et al. 2022, "Robust fine-tuning of
zero-shot models", section 3, found the same for classifiers). The mean of trainings that started from the same weights
is better than each of them (M. Wortsman et al. 2022, "Model soups").
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from model.bundle import BundleError, load_captioner
from model.bundle_writer import check_replaceable, save_bundle
from model.config import CaptionerConfig
from model.training.command import EXIT_OK, command_parser, run_command

if TYPE_CHECKING:
    from model.captioner import Captioner

Array = npt.NDArray[Any]


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_args(argv)

    def run() -> int:
        shares = args.shares or [1 / len(args.bundles)] * len(args.bundles)
        version = blend(args.bundles, shares, args.output, args.length_penalty, args.content_words_once)
        print(f"{args.output}: {version}")
        return EXIT_OK

    return run_command("blend", run)


def blend(
    bundles: Sequence[Path],
    shares: Sequence[float],
    output: Path,
    length_penalty: float | None = None,
    content_words_once: bool | None = None,
) -> str:
    """Writes the bundle and returns its version.

    Args:
      bundles: folders of bundles with the same architecture and vocabulary; what no weight depends on is taken
        from the last. Different 8-bit backbones are averaged in floating point, as is one with a floating-point one.
      shares: one for each bundle, with a sum of 1.
      output: folder of the new bundle.
      length_penalty: default of the new bundle's beam search; None is that of the last bundle.
      content_words_once: see `CaptionerConfig`; None is as in the last bundle.

    Raises:
      BundleError: a bundle is damaged, the bundles differ in architecture or vocabulary, or `output` holds something
        else.
      ValueError: the number of shares or their sum is wrong, or the length penalty is out of range.
      OSError: a file cannot be read or written.
    """
    from model.captioner import Captioner
    from model.network import build_network, named_variables

    check_replaceable(output)
    if len(shares) != len(bundles) or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
        given = ",".join(f"{share:g}" for share in shares)
        raise ValueError(f"--shares must be one for each of {len(bundles)} bundles, with a sum of 1, not {given}")
    captioners = [load_captioner(bundle) for bundle in bundles]
    last = captioners[-1]
    for bundle, captioner in zip(bundles, captioners, strict=True):
        if _comparable(captioner, last.config) != _comparable(last, last.config):
            raise BundleError(f"{bundle} and {bundles[-1]} differ in architecture or vocabulary")
    weights, int8 = _weights(captioners)
    config = replace(last.config, int8=int8)
    if length_penalty is not None:
        config = replace(config, length_penalty=length_penalty)
    if content_words_once is not None:
        config = replace(config, content_words_once=content_words_once)
    mean = Captioner(config, last.vocabulary, *build_network(config, len(last.vocabulary)))
    for name, variable in named_variables(mean.encoder, mean.decoder).items():
        variable.assign(_mean([one[name] for one in weights], shares))
    parts = ", ".join(f"{share:g} of {one.version}" for share, one in zip(shares, captioners, strict=True))
    return save_bundle(output, mean, f"# Model card\n\nThe mean of {parts} (`python -m model blend`).\n")


def _weights(captioners: Sequence[Captioner]) -> tuple[list[dict[str, Array]], bool]:
    """The weights of each captioner by their names in a bundle, and whether they have an 8-bit backbone.

    One that all captioners share is kept; different ones have a mean only in floating point.
    """
    from model.network import BACKBONE_PREFIX, named_variables
    from model.training.quantize import float_weights

    if all(captioner.config.int8 for captioner in captioners):
        weights = [
            {name: np.asarray(variable) for name, variable in named_variables(one.encoder, one.decoder).items()}
            for one in captioners
        ]
        backbone = [name for name in weights[-1] if name.startswith(BACKBONE_PREFIX)]
        if all(np.array_equal(one[name], weights[-1][name]) for one in weights for name in backbone):
            return weights, True
    if any(captioner.config.int8 for captioner in captioners):
        print("the mean has a floating-point backbone; `python -m model quantize` converts it to 8 bits", flush=True)
    return [float_weights(captioner) for captioner in captioners], False


def _mean(arrays: Sequence[Array], shares: Sequence[float]) -> Array:
    """The weighted mean; equal arrays are kept as they are, since their mean would differ by rounding."""
    if all(np.array_equal(array, arrays[-1]) for array in arrays):
        return arrays[-1]
    return np.asarray(sum(share * array for share, array in zip(shares, arrays, strict=True)))


def _comparable(captioner: Captioner, config: CaptionerConfig) -> tuple[CaptionerConfig, object]:
    """What must be equal in all bundles; no weight depends on the rest."""
    independent = ("input_size", "dropout", "length_penalty", "content_words_once", "int8")
    own = replace(captioner.config, **{name: getattr(config, name) for name in independent})
    return own, captioner.vocabulary


def _numbers(text: str) -> list[float]:
    try:
        return [float(share) for share in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 0.3,0.7") from None


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("blend", __doc__)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE", help="bundles trained from the same weights")
    parser.add_argument(
        "--shares",
        type=_numbers,
        help="share of each bundle, with a sum of 1, such as 0.3,0.7 (default: equal shares)",
    )
    parser.add_argument(
        "--length_penalty",
        type=float,
        help="the new bundle's default for beam search; find a good value with `python -m model evaluate` "
        "(default: that of the last bundle)",
    )
    parser.add_argument(
        "--content_words_once",
        action=argparse.BooleanOptionalAction,
        help="for English captions: do not repeat nouns, verbs or adjectives in a caption (default: as in the last "
        "bundle)",
    )
    parser.add_argument("--output", required=True, type=Path, help="folder of the bundle to write")
    return parser
