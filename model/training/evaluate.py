"""Scores captions against human captions: BLEU-1 to 4, METEOR, ROUGE-L and CIDEr, as JSON.

    python -m model evaluate --data=DEV.parquet --model=BUNDLE
    python -m model evaluate --data=DEV.parquet --data=OTHER.parquet
    python -m model evaluate --data=DEV.parquet --captions='OUT/captions/run=.../*.parquet'

Each metric has a 95 % bootstrap interval. The report also contains the CIDEr of each fifth of the captions by score,
lowest scores first, and statistics of the language: unfinished captions, repeated words, variety; and the same
statistics for human captions, using the first caption of each photograph. With several sets, the JSON object has one
report per set, with the name of its file as the key.

With --captions the command scores captions that the job has written; images are matched by file name.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from model.bundle import DEFAULT_BUNDLE, load_captioner
from model.caption import Caption
from model.config import Decoding
from model.decoding_options import add_decoding_options, decoding_from
from model.engine_choice import add_engine_options
from model.preprocessing import pad_batch
from model.training.command import EXIT_OK, command_parser, run_command
from model.training.data import DataError, Example, read_columns, read_examples
from model.training.language import language
from model.training.metrics import by_fifths, caption_metrics

_BATCH = 32
_FIFTHS = 5


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_args(argv)
    return run_command("evaluate", lambda: _evaluate(args))


def _evaluate(args: argparse.Namespace) -> int:
    sets = named_sets(args.data, args.images)
    reports = {name: evaluate(examples, said) for name, examples, said in _captioned(args, sets)}
    print(json.dumps(reports if len(reports) > 1 else next(iter(reports.values())), indent=2))
    return EXIT_OK


def named_sets(data: Sequence[str], images: str | None) -> dict[str, list[Example]]:
    """The examples of each set by its name: that of its file or folder, without the extension.

    Raises:
      DataError: a set cannot be read, or two have the same name.
    """
    sets: dict[str, list[Example]] = {}
    for path in data:
        name = PurePosixPath(path).stem
        if name in sets:
            raise DataError(f"two sets are named {name!r}; rename one of the files, or evaluate them one by one")
        sets[name] = read_examples(path, images)
    return sets


def _captioned(
    args: argparse.Namespace, sets: Mapping[str, Sequence[Example]]
) -> Iterator[tuple[str, Sequence[Example], dict[str, Caption]]]:
    """Yields the name of each set, its examples and their captions."""
    if args.captions:
        for name, examples in sets.items():
            yield name, examples, read_captions(args.captions, examples)
        return
    everything = [example for examples in sets.values() for example in examples]
    captions = caption_examples(everything, args.model, decoding_from(args), args.engine, args.precision)
    for name, examples in sets.items():
        yield name, examples, dict(itertools.islice(captions, len(examples)))


def evaluate(examples: Sequence[Example], said: Mapping[str, Caption]) -> dict[str, Any]:
    """The report on one set.

    Args:
      examples: photographs with human captions.
      said: the caption of each photograph by its name, in their order; scores are nan where they are unknown.

    Raises:
      MetricsError: a metric's program is not installed.
    """
    references = {name: example.captions for name, example in zip(said, examples, strict=True)}
    metrics, cider, intervals = caption_metrics(references, {name: [caption.text] for name, caption in said.items()})
    report: dict[str, Any] = {"images": len(said)} | _rounded(metrics)
    report["95 % intervals"] = {name: [round(value, 2) for value in ends] for name, ends in intervals.items()}
    scores = [np.nan if caption.score is None else caption.score for caption in said.values()]
    if len(said) >= _FIFTHS and not np.isnan(scores).any():
        fifths = by_fifths(scores, [cider[name] for name in said])
        report["CIDEr by fifths of score"] = [round(value, 2) for value in fifths]
    report["captions"] = _rounded(language([caption.text for caption in said.values()]))
    report["human captions"] = _rounded(language([example.captions[0] for example in examples]))
    return report


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in values.items()}


def caption_examples(
    examples: Sequence[Example], model: Path, decoding: Decoding, engine: str, precision: str
) -> Iterator[tuple[str, Caption]]:
    """Yields the name of each photograph and its caption."""
    captioner = load_captioner(model, decoding, engine, functools.partial(print, file=sys.stderr), precision)
    size = captioner.config.input_size
    for start in range(0, len(examples), _BATCH):
        chunk = examples[start : start + _BATCH]
        images = pad_batch([example.load(size).pixels for example in chunk], _BATCH)
        for example, captions in zip(chunk, captioner.caption(images), strict=False):  # the batch may be padded
            yield example.image_id, captions[0]


def read_captions(files: str, examples: Sequence[Example]) -> dict[str, Caption]:
    """The captions of `examples` in Parquet with the columns `uri`, `caption` and perhaps `score`, by image.

    Raises:
      DataError: an example has no caption there.
    """
    written = {
        _stem(uri): Caption(caption, math.nan if score is None else score)
        for uri, caption, score in read_columns(files, ("uri", "caption", "score?"))
    }
    missing = [example.image_id for example in examples if _stem(example.image_id) not in written]
    if missing:
        raise DataError(
            f"{files} has no caption for {len(missing):,} of {len(examples):,} images, such as {missing[0]}"
        )
    return {example.image_id: written[_stem(example.image_id)] for example in examples}


def _stem(uri: str) -> str:
    return PurePosixPath(uri).stem


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("evaluate", __doc__)
    parser.add_argument(
        "--data",
        required=True,
        action="append",
        help="Parquet files (image, captions) or a captions JSON of COCO; repeatable, to score several sets",
    )
    parser.add_argument("--images", help="folder of the image files (default: the folder of --data)")
    parser.add_argument(
        "--model", type=Path, default=DEFAULT_BUNDLE, help="the bundle to score (default: the bundled model)"
    )
    parser.add_argument("--captions", help="score these Parquet files (uri, caption) instead of a model")
    add_engine_options(parser.add_argument_group("speed"))
    add_decoding_options(parser.add_argument_group("decoding"))
    return parser
