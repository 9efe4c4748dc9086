"""The command-line options of decoding, shared by all commands that caption."""

from __future__ import annotations

import argparse
from dataclasses import fields

from model.config import METHODS, Decoding

_HELP = {
    "num_captions": "captions per image, best first",
    "beam_width": "number of hypotheses that beam search keeps",
    "top_k": "number of most likely words that sampling draws from",
    "temperature": "temperature of sampling; below 1 favours likely words",
    "seed": "seed of sampling; the same seed gives the same captions",
    "no_repeat_ngram": "do not repeat N consecutive words in a caption, or a word twice in a row; 0 allows both",
}


def add_decoding_options(group: argparse._ArgumentGroup) -> None:
    """Adds an option for each field of `Decoding`."""
    group.add_argument(
        "--decoding",
        choices=METHODS,
        default=Decoding.method,
        help="beam search, greedy decoding, or sampling from the most likely words (default: %(default)s)",
    )
    group.add_argument(
        "--length_penalty",
        type=number,
        metavar="X",
        help="length penalty of beam search; 0 prefers short captions, 1 is neutral, 2 prefers long ones (default: the "
        "value in the model's config.json)",
    )
    for name, text in _HELP.items():
        add_number(group, name, getattr(Decoding, name), text)


def add_number(group: argparse._ArgumentGroup, name: str, default: float, text: str) -> None:
    """Adds `--name=N` (or X, if the default is not a whole number)."""
    kind, metavar = (whole_number, "N") if isinstance(default, int) else (number, "X")
    group.add_argument(f"--{name}", type=kind, default=default, metavar=metavar, help=f"{text} (default: %(default)s)")


def whole_number(text: str) -> int:
    """The value of an option, for argparse's `type`."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r:.40}") from None


def number(text: str) -> float:
    """The value of an option, for argparse's `type`."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r:.40}") from None


def decoding_from(args: argparse.Namespace) -> Decoding:
    """Converts the parsed options. Raises ValueError for a value out of range."""
    values = {field.name: getattr(args, field.name) for field in fields(Decoding) if field.name != "method"}
    return Decoding(method=args.decoding, **values)
