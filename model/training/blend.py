"""A bundle between others: the weighted mean of their weights.

    python -m model blend tuned rewarded --shares=0.5,0.5 --output=between

A training by rewards moves a captioner towards few safe sentences; half the way back it keeps nearly all of the
metrics' gain and says more different things (M. Wortsman et al. 2022, "Robust fine-tuning of zero-shot models",
section 3, found as much of classifiers). Trainings that began with the same weights and went different ways are better
in the middle than each by itself (the same authors' "Model soups", 2022).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from model.bundle import BundleError, load_captioner, save_bundle
from model.captioner import Captioner
from model.config import CaptionerConfig
from model.network import BACKBONE_PREFIX, named_variables


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_args(argv)
    try:
        shares = args.shares or [1 / len(args.bundles)] * len(args.bundles)
        version = blend(args.bundles, shares, args.output, args.length_penalty)
    except (BundleError, ValueError, OSError) as error:
        print(f"model blend: {error}", file=sys.stderr)
        return 2
    print(f"{args.output}: {version}")
    return 0


def blend(bundles: Sequence[Path], shares: Sequence[float], output: Path, length_penalty: float | None = None) -> str:
    """Writes the bundle and returns its version.

    Args:
      bundles: folders, of the same architecture and vocabulary; input size, dropout and length penalty are those of the
        last.
      shares: of each, with a sum of 1.
      output: folder of the new bundle.
      length_penalty: of its beam search, where a run asks for none.

    Raises:
      BundleError: a bundle is not whole, or they do not fit; backbones of 8-bit whole numbers fit where they are one.
      ValueError: there is not one share for each, their sum is not 1, or the length penalty is out of range.
    """
    if len(shares) != len(bundles) or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
        raise ValueError(f"shares must be one for each of {len(bundles)} bundles, with a sum of 1, not {shares}")
    captioners = [load_captioner(bundle) for bundle in bundles]
    last = captioners[-1]
    for bundle, captioner in zip(bundles, captioners, strict=True):
        if _comparable(captioner, last.config) != _comparable(last, last.config):
            raise BundleError(f"{bundle} and {bundles[-1]} differ in architecture or vocabulary")
    weights = [named_variables(captioner.encoder, captioner.decoder) for captioner in captioners]
    for name, variable in weights[-1].items():
        arrays = [np.asarray(one[name]) for one in weights]
        if all(np.array_equal(array, arrays[-1]) for array in arrays):
            continue  # the mean is what it was, but for rounding
        if last.config.int8 and name.startswith(BACKBONE_PREFIX):
            raise BundleError("the bundles have different backbones of 8-bit whole numbers, which have no mean")
        variable.assign(sum(share * array for share, array in zip(shares, arrays, strict=True)))
    if length_penalty is not None:
        last.config = replace(last.config, length_penalty=length_penalty)
    parts = ", ".join(f"{share:g} of {one.version}" for share, one in zip(shares, captioners, strict=True))
    return save_bundle(output, last, f"# Model card\n\nThe mean of {parts} (`python -m model blend`).\n")


def _comparable(captioner: Captioner, config: CaptionerConfig) -> tuple[CaptionerConfig, object]:
    """What has to be the same: no weight depends on input size, dropout or length penalty."""
    own = replace(
        captioner.config,
        input_size=config.input_size,
        dropout=config.dropout,
        length_penalty=config.length_penalty,
    )
    return own, captioner.vocabulary


def _numbers(text: str) -> list[float]:
    try:
        return [float(share) for share in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not numbers with commas between them, such as 0.3,0.7") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model blend",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE", help="trained from the same weights")
    parser.add_argument(
        "--shares",
        type=_numbers,
        help="of each bundle, with a sum of 1, such as 0.3,0.7 (default: all the same)",
    )
    parser.add_argument(
        "--length_penalty",
        type=float,
        help="of the new bundle's beam search, unless a run gives its own: try it with `python -m model evaluate` "
        "(default: that of the last bundle)",
    )
    parser.add_argument("--output", required=True, type=Path, help="folder of the bundle to write")
    return parser
