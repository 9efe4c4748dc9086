"""Scores captions against people's: BLEU-1 to 4, METEOR, ROUGE-L and CIDEr, as JSON.

    python -m model.evaluate --data=DEV.parquet --model=BUNDLE
    python -m model.evaluate --data=DEV.parquet --captions='OUT/captions/run=.../*.parquet'

The second form scores captions that the job has written; an image is recognised by its file name.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from model.bundle import DEFAULT_BUNDLE, BundleError, load_captioner
from model.config import Decoding
from model.data import DataError, Example, read_columns, read_examples
from model.decoding_options import add_decoding_options, decoding_from
from model.engine_choice import EngineError, add_engine_options
from model.metrics import MetricsError, caption_metrics
from model.preprocessing import ImageError, load_image, pad_batch

_BATCH = 32


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_args(argv)
    try:
        examples = read_examples(args.data, args.images)
        if args.captions:
            said = read_captions(args.captions, examples)
        else:
            said = dict(caption_examples(examples, args.model, decoding_from(args), args.engine, args.precision))
        metrics = caption_metrics({name: e.captions for name, e in zip(said, examples, strict=True)}, said)
    except (BundleError, DataError, EngineError, ImageError, MetricsError, ValueError, OSError) as error:
        print(f"model.evaluate: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"images": len(said)} | {name: round(value, 2) for name, value in metrics.items()}, indent=2))
    return 0


def caption_examples(
    examples: Sequence[Example], model: Path, decoding: Decoding, engine: str, precision: str
) -> Iterator[tuple[str, list[str]]]:
    """Yields the name of each photograph and its caption."""
    captioner = load_captioner(model, decoding, engine, functools.partial(print, file=sys.stderr), precision)
    size = captioner.config.input_size
    for start in range(0, len(examples), _BATCH):
        chunk = examples[start : start + _BATCH]
        images = pad_batch([load_image(example.read(), size).pixels for example in chunk], _BATCH)
        for example, captions in zip(chunk, captioner.caption(images), strict=False):  # the batch may be padded
            yield example.image_id, [captions[0].text]


def read_captions(files: str, examples: Sequence[Example]) -> dict[str, list[str]]:
    """The captions of `examples` in Parquet with the columns `uri` and `caption`, by image.

    Raises:
      DataError: an example has no caption there.
    """
    written = {_stem(uri): caption for uri, caption in read_columns(files, ("uri", "caption"))}
    missing = [example.image_id for example in examples if _stem(example.image_id) not in written]
    if missing:
        raise DataError(
            f"{files} has no caption for {len(missing):,} of {len(examples):,} images, such as {missing[0]}"
        )
    return {example.image_id: [written[_stem(example.image_id)]] for example in examples}


def _stem(uri: str) -> str:
    return PurePosixPath(uri).stem


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--data", required=True, help="Parquet files (image, captions) or a captions JSON of COCO")
    parser.add_argument("--images", help="folder of the image files (default: the folder of --data)")
    parser.add_argument(
        "--model", type=Path, default=DEFAULT_BUNDLE, help="the bundle to score (default: the one that ships)"
    )
    parser.add_argument("--captions", help="score these Parquet files (uri, caption) instead of a model")
    add_engine_options(parser.add_argument_group("speed"))
    add_decoding_options(parser.add_argument_group("decoding"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
