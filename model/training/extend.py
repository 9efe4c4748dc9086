"""Adds the words of other captions and sentences to the vocabulary of a bundle.

    python -m model extend BUNDLE --data=TRAIN.parquet --sentences=SENTENCES.txt.gz --min_count=12 --output=EXTENDED

All weights of the old words are kept, so the captions are nearly the same until the new bundle is trained
(`python -m model train --init=EXTENDED`). A new word starts with a random embedding, output weights of zero and the
smallest bias of the known words.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.bundle import load_captioner
from model.bundle_writer import check_replaceable, save_bundle
from model.training.command import EXIT_OK, command_parser, run_command
from model.training.data import read_columns
from model.vocabulary import SPECIAL_WORDS, Vocabulary

Array = npt.NDArray[np.float32]
EMBEDDINGS = "decoder/embedding/embeddings"
KERNEL = "decoder/to_vocabulary/kernel"
BIAS = "decoder/to_vocabulary/bias"


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_args(argv)

    def run() -> int:
        check_replaceable(args.output)
        captions = [text for texts in read_texts(args) for text in texts]
        version, words = extend(args.bundle, captions, args.min_count, args.output)
        print(f"{args.output}: {version}, {words:,} words")
        return EXIT_OK

    return run_command("extend", run)


def extend(bundle: Path, captions: Sequence[str], min_count: int, output: Path) -> tuple[str, int]:
    """Writes the bundle with more words.

    Args:
      bundle: the bundle to extend.
      captions: text with new words.
      min_count: a word must appear this often in `captions`.
      output: folder of the new bundle.

    Returns:
      the version of the new bundle and the size of its vocabulary.

    Raises:
      BundleError: the bundle cannot be loaded.
      ValueError: `captions` has no new word.
    """
    from model.captioner import Captioner
    from model.network import build_network, named_variables

    start = load_captioner(bundle)
    known = set(start.vocabulary.words)
    new = [word for word in Vocabulary.build(captions, min_count).words if word not in known]
    if not new:
        raise ValueError(f"no new word appears {min_count} times or more; lower --min_count or give other text")
    vocabulary = Vocabulary((*start.vocabulary.words, *new))
    encoder, decoder = build_network(start.config, len(vocabulary))
    weights = {name: np.asarray(variable) for name, variable in named_variables(start.encoder, start.decoder).items()}
    weights |= _with_new_words(weights, len(new))
    for name, variable in named_variables(encoder, decoder).items():
        variable.assign(weights[name])
    card = (
        f"# Model card\n\n{start.version} with {len(new):,} more words (`python -m model extend`), not yet trained.\n"
    )
    return save_bundle(output, Captioner(start.config, vocabulary, encoder, decoder), card), len(vocabulary)


def _with_new_words(weights: Mapping[str, Array], new: int) -> dict[str, Array]:
    """The arrays that have one row or column a word, with those of `new` more words."""
    embeddings, kernel, bias = weights[EMBEDDINGS], weights[KERNEL], weights[BIAS]
    known = slice(len(SPECIAL_WORDS), None)
    drawn = np.random.default_rng(0).normal(0.0, embeddings[known].std(), (new, embeddings.shape[1]))
    return {
        EMBEDDINGS: np.concatenate([embeddings, drawn.astype(np.float32)]),
        KERNEL: np.pad(kernel, ((0, 0), (0, new))),
        BIAS: np.pad(bias, (0, new), constant_values=bias[known].min()),
    }


def add_text_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--data` and `--sentences`, which `read_texts` reads."""
    parser.add_argument("--data", action="append", default=[], help="Parquet files with a column captions; repeatable")
    parser.add_argument(
        "--sentences",
        action="append",
        default=[],
        type=Path,
        help="text file, also .gz, with one sentence per line; repeatable",
    )


def read_texts(args: argparse.Namespace) -> list[list[str]]:
    """The captions of each `--data` and the sentences of each file of `--sentences`.

    Raises:
      DataError, OSError: one of them cannot be read.
    """
    from model.training.sentences import read_sentences

    captions = [[text for (texts,) in read_columns(data, ["captions"]) for text in texts] for data in args.data]
    return [*captions, *(list(read_sentences(path)) for path in args.sentences)]


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("extend", __doc__)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle to extend")
    add_text_options(parser)
    parser.add_argument(
        "--min_count", type=int, default=12, help="add words that occur at least this often (default: 12)"
    )
    parser.add_argument("--output", required=True, type=Path, help="folder of the bundle to write")
    return parser
