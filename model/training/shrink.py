"""Removes rare words from the vocabulary of a bundle.

    python -m model shrink BUNDLE --data=TRAIN.parquet --sentences=SENTENCES.txt.gz --min_share=2e-5 --output=SMALL

The multiplication with the vocabulary's weights is the most expensive part of decoding, and most words never occur in
captions. A word is kept, with its weights, if its share of all words in one of the given texts is at least --min_share.
"""

from __future__ import annotations

import argparse
import collections
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from model.bundle import load_captioner
from model.bundle_writer import check_replaceable, save_bundle
from model.training.command import EXIT_OK, command_parser, run_command
from model.training.extend import BIAS, EMBEDDINGS, KERNEL, add_text_options, read_texts
from model.training.train_options import fraction
from model.vocabulary import SPECIAL_WORDS, Vocabulary, standardize


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_args(argv)

    def run() -> int:
        check_replaceable(args.output)
        texts = read_texts(args)
        if not texts:
            raise ValueError("give the text to count words in: --data, --sentences or both")
        version, words = shrink(args.bundle, texts, args.min_share, args.output)
        print(f"{args.output}: {version}, {words:,} words")
        return EXIT_OK

    return run_command("shrink", run)


def shrink(bundle: Path, texts: Sequence[Sequence[str]], min_share: float, output: Path) -> tuple[str, int]:
    """Writes the bundle with fewer words.

    Args:
      bundle: the bundle to shrink.
      texts: captions or sentences.
      min_share: a word stays if it has this share of all words of one of `texts`.
      output: folder of the new bundle.

    Returns:
      the version of the new bundle and the size of its vocabulary.

    Raises:
      BundleError: the bundle cannot be loaded.
      ValueError: no word would stay, or all would.
    """
    from model.captioner import Captioner
    from model.network import build_network, named_variables

    start = load_captioner(bundle)
    shares = [_shares(text) for text in texts]
    stays = [
        word in SPECIAL_WORDS or any(share.get(word, 0.0) >= min_share for share in shares)
        for word in start.vocabulary.words
    ]
    if all(stays) or sum(stays) == len(SPECIAL_WORDS):
        raise ValueError(f"{'all words' if all(stays) else 'no word'} would stay; change --min_share={min_share:g}")
    vocabulary = Vocabulary(tuple(np.array(start.vocabulary.words, object)[stays]))
    encoder, decoder = build_network(start.config, len(vocabulary))
    weights = {name: np.asarray(variable) for name, variable in named_variables(start.encoder, start.decoder).items()}
    for name in (EMBEDDINGS, KERNEL, BIAS):
        weights[name] = weights[name].compress(stays, axis=0 if name == EMBEDDINGS else -1)
    for name, variable in named_variables(encoder, decoder).items():
        variable.assign(weights[name])
    removed = len(start.vocabulary) - len(vocabulary)
    card = f"# Model card\n\n{start.version} without {removed:,} rare words (`python -m model shrink`).\n"
    return save_bundle(output, Captioner(start.config, vocabulary, encoder, decoder), card), len(vocabulary)


def _shares(text: Sequence[str]) -> Mapping[str, float]:
    """The share of each word in all words of a text."""
    counts = collections.Counter(word for sentence in text for word in standardize(sentence))
    total = counts.total()
    return {word: count / total for word, count in counts.items()}


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("shrink", __doc__)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle to shrink")
    add_text_options(parser)
    parser.add_argument(
        "--min_share",
        type=fraction,
        default=2e-5,
        help="keep words with at least this share of all words in one of the texts (default: %(default)s)",
    )
    parser.add_argument("--output", required=True, type=Path, help="folder of the bundle to write")
    return parser
