"""The command-line options of decoding, the same for every command that captions."""

from __future__ import annotations

import argparse
from dataclasses import fields

from model.config import METHODS, Decoding

_HELP = {
    "num_captions": "captions for each image, best first",
    "beam_width": "hypotheses that beam search keeps",
    "top_k": "words that sampling chooses from",
    "temperature": "of sampling; below 1 keeps to the likely words",
    "seed": "of sampling; the same seed gives the same captions",
    "no_repeat_ngram": "no caption holds N words in a row twice, nor a word that follows itself; 0 for no such guard",
}


def add_decoding_options(group: argparse._ArgumentGroup) -> None:
    """Adds an option for each field of `Decoding`."""
    group.add_argument(
        "--decoding",
        choices=METHODS,
        default=Decoding.method,
        help="beam search, greedy choice, or sampling from the likeliest words (default: %(default)s)",
    )
    group.add_argument(
        "--length_penalty",
        type=float,
        metavar="X",
        help="of beam search; 0 prefers short captions, 1 is neutral, 2 prefers long ones (default: what the model's "
        "config.json names, 1 where it names none)",
    )
    for name, text in _HELP.items():
        add_number(group, name, getattr(Decoding, name), text)


def add_number(group: argparse._ArgumentGroup, name: str, default: float, text: str) -> None:
    """Adds `--name=N` (or X, where the default is no whole number)."""
    metavar = "N" if isinstance(default, int) else "X"
    group.add_argument(
        f"--{name}", type=type(default), default=default, metavar=metavar, help=f"{text} (default: %(default)s)"
    )


def decoding_from(args: argparse.Namespace) -> Decoding:
    """The options as a record. Raises ValueError for a value out of range."""
    values = {field.name: getattr(args, field.name) for field in fields(Decoding) if field.name != "method"}
    return Decoding(method=args.decoding, **values)
