"""Writes an HTML page with the captions of two models side by side, to see what metrics do not show.

    python -m model compare --data=DEV.parquet --after=BUNDLE --output=page.html

Rows whose captions differ come first. Scores are mean log-probabilities of each model's own words; those of two models
cannot be compared with each other. `python -m model evaluate` measures both models against human captions.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

from model.bundle import DEFAULT_BUNDLE, check_bundle
from model.caption import Caption
from model.config import Decoding
from model.decoding_options import add_decoding_options, decoding_from
from model.engine_choice import add_engine_options
from model.training.command import (
    EXIT_OK,
    check_output_file,
    check_output_folder,
    command_parser,
    run_command,
    write_output_file,
)
from model.training.data import Example, read_examples
from model.training.evaluate import caption_examples

_COMMAND = "python -m model compare"  # on the page, so that a later run may replace it
_SIDE = 224  # pixels, the longer side of a thumbnail
_STYLE = "body{font:16px sans-serif}td{vertical-align:top;padding:8px;border-top:1px solid #ccc}i{color:#777}"


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_args(argv)
    return run_command("compare", lambda: _compare(args))


def _compare(args: argparse.Namespace) -> int:
    if args.images < 1:
        raise ValueError(f"--images must be a whole number from 1, not {args.images}")
    check_output_folder(args.output)
    check_output_file(args.output, _COMMAND)
    decoding, models = decoding_from(args), (args.before, args.after)
    names = [_name(model) for model in models]
    examples = spread(read_examples(args.data), args.images)
    before, after = (_captions(examples, model, decoding, args.engine, args.precision) for model in models)
    write_output_file(args.output, _COMMAND, page(examples, before, after, names).encode())
    print(f"{args.output.resolve()}: {summarize(before, after, names)}")
    return EXIT_OK


def _name(model: Path) -> str:
    return f"{'the bundled model' if model == DEFAULT_BUNDLE else model} ({check_bundle(model)})"


def summarize(before: Sequence[Caption], after: Sequence[Caption], names: Sequence[str]) -> str:
    """How many captions differ, and between which models."""
    different = sum(old.text != new.text for old, new in zip(before, after, strict=True))
    return f"{different:,} of {len(before):,} captions differ between {names[0]} and {names[1]}"


def spread(examples: Sequence[Example], count: int) -> list[Example]:
    """At most `count` of the examples, evenly spaced; every call selects the same ones."""
    count = min(count, len(examples))
    return [examples[number * len(examples) // count] for number in range(count)]


def page(examples: Sequence[Example], before: Sequence[Caption], after: Sequence[Caption], names: Sequence[str]) -> str:
    """A self-contained HTML page: thumbnails, human captions, and the caption of each model; first what differs.

    Args:
      examples: the images.
      before: the first model's caption of each image.
      after: the second model's.
      names: what both models are called.

    Raises:
      ImageError: an image cannot be decoded.
    """
    rows = [
        f"<tr><td>{_thumbnail(example)}<td>{_human_captions(example)}<td>{_format(old)}<td>{_format(new)}"
        for example, old, new in sorted(
            zip(examples, before, after, strict=True), key=lambda row: row[1].text == row[2].text
        )
    ]
    return "\n".join(
        (
            "<!DOCTYPE html><html lang=en><meta charset=utf-8><title>Captions</title>",
            f'<meta name=generator content="{_COMMAND}"><style>{_STYLE}</style>',
            f"<p>{html.escape(summarize(before, after, names))}; those come first.</p><table>",
            f"<tr><th>image<th>human captions<th>{html.escape(names[0])}<th>{html.escape(names[1])}",
            *rows,
            "</table></html>\n",
        )
    )


def _captions(
    examples: Sequence[Example], model: Path, decoding: Decoding, engine: str, precision: str
) -> list[Caption]:
    return [caption for _, caption in caption_examples(examples, model, decoding, engine, precision)]


def _thumbnail(example: Example) -> str:
    buffer = io.BytesIO()
    example.load(_SIDE).in_proportion().save(buffer, "JPEG")
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _human_captions(example: Example) -> str:
    return "<br>".join(html.escape(caption) for caption in example.captions)


def _format(caption: Caption) -> str:
    return f"{html.escape(caption.text)} <i>{caption.score:.2f}</i>"


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("compare", __doc__)
    parser.add_argument("--data", required=True, help="Parquet files (image, captions) or a captions JSON of COCO")
    parser.add_argument(
        "--before",
        type=Path,
        default=DEFAULT_BUNDLE,
        metavar="BUNDLE",
        help="the first model (default: the bundled one)",
    )
    parser.add_argument("--after", required=True, type=Path, metavar="BUNDLE", help="the second model")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the HTML page to write")
    parser.add_argument("--images", type=int, default=50, metavar="N", help="images on the page (default: %(default)s)")
    add_engine_options(parser.add_argument_group("speed"))
    add_decoding_options(parser.add_argument_group("decoding (of both models)"))
    return parser
