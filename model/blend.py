"""A bundle between two others: weights on the straight line from the one to the other.

    python -m model.blend tuned rewarded --share=0.5 --output=between

A training by rewards moves a captioner towards few safe sentences; half the way back it keeps nearly all of the
metrics' gain and says more different things. M. Wortsman et al. (2022), "Robust fine-tuning of zero-shot models",
section 3, found as much of classifiers. The second bundle must have been trained from the first.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from model.bundle import BundleError, load_captioner, save_bundle
from model.network import named_variables
from model.train_options import share_of


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_args(argv)
    try:
        version = blend(args.first, args.second, args.share, args.output)
    except (BundleError, OSError) as error:
        print(f"model.blend: {error}", file=sys.stderr)
        return 2
    print(f"{args.output}: {version}")
    return 0


def blend(first: Path, second: Path, share: float, output: Path) -> str:
    """Writes the bundle and returns its version.

    Args:
      first: a bundle.
      second: one with the same architecture and vocabulary.
      share: of the second, 0 to 1.
      output: folder of the new bundle.

    Raises:
      BundleError: a bundle is not whole, or the two do not fit.
    """
    captioner, other = load_captioner(first), load_captioner(second)
    of_captions = replace(other.config, dropout=captioner.config.dropout)  # dropout is of the training alone
    if (captioner.config, captioner.vocabulary) != (of_captions, other.vocabulary):
        raise BundleError(f"{first} and {second} differ in architecture or vocabulary")
    weights = named_variables(other.encoder, other.decoder)
    for name, variable in named_variables(captioner.encoder, captioner.decoder).items():
        variable.assign((1 - share) * variable + share * weights[name])
    card = (
        f"# Model card\n\nBetween {captioner.version} and {other.version}, a share of {share} of the second "
        "(`python -m model.blend`).\n"
    )
    return save_bundle(output, captioner, card)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model.blend",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("first", type=Path, metavar="FIRST", help="a bundle")
    parser.add_argument("second", type=Path, metavar="SECOND", help="one that was trained from it")
    parser.add_argument("--share", type=share_of, default=0.5, help="of the second, 0 to 1 (default: %(default)s)")
    parser.add_argument("--output", required=True, type=Path, help="folder of the bundle to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())
