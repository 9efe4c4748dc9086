"""A page of photographs with the captions of two models, for reading: metrics do not tell what it is like.

python -m model compare --data=DEV.parquet --before=BUNDLE --after=BUNDLE --output=page.html
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from model.bundle import BundleError
from model.caption import Caption
from model.config import Decoding
from model.decoding_options import add_decoding_options, decoding_from
from model.engine_choice import EngineError, add_engine_options
from model.preprocessing import ImageError, load_image
from model.training.data import DataError, Example, read_examples
from model.training.evaluate import caption_examples

_SIDE = 224  # pixels, the longer side of a thumbnail
_STYLE = "body{font:16px sans-serif}td{vertical-align:top;padding:8px;border-top:1px solid #ccc}i{color:#777}"


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_args(argv)
    try:
        if args.images < 1:
            raise ValueError(f"--images must be a whole number from 1, not {args.images}")
        examples = spread(read_examples(args.data), args.images)
        decoding = decoding_from(args)
        before, after = (
            _captions(examples, model, decoding, args.engine, args.precision) for model in (args.before, args.after)
        )
        Path(args.output).write_text(page(examples, before, after), encoding="utf-8")
    except (BundleError, DataError, EngineError, ImageError, ValueError, OSError) as error:
        print(f"model compare: {error}", file=sys.stderr)
        return 2
    return 0


def spread(examples: Sequence[Example], count: int) -> list[Example]:
    """`count` of the examples, or all, at equal distances: the same ones every time."""
    count = min(count, len(examples))
    return [examples[number * len(examples) // count] for number in range(count)]


def page(examples: Sequence[Example], before: Sequence[Caption], after: Sequence[Caption]) -> str:
    """HTML that needs no other file: thumbnails, what people say, and a caption of each model.

    Raises:
      ImageError: a photograph cannot be read.
    """
    rows = [
        f"<tr><td>{_thumbnail(example.read())}<td>{_people(example)}<td>{_said(old)}<td>{_said(new)}"
        for example, old, new in zip(examples, before, after, strict=True)
    ]
    return "\n".join(
        (
            f"<!DOCTYPE html><html lang=en><meta charset=utf-8><title>Captions</title><style>{_STYLE}</style><table>",
            "<tr><th>photograph<th>people<th>before<th>after",
            *rows,
            "</table></html>\n",
        )
    )


def _captions(
    examples: Sequence[Example], model: Path, decoding: Decoding, engine: str, precision: str
) -> list[Caption]:
    return [caption for _, caption in caption_examples(examples, model, decoding, engine, precision)]


def _thumbnail(data: bytes) -> str:
    buffer = io.BytesIO()
    load_image(data, _SIDE).in_proportion().save(buffer, "JPEG")
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _people(example: Example) -> str:
    return "<br>".join(html.escape(caption) for caption in example.captions)


def _said(caption: Caption) -> str:
    return f"{html.escape(caption.text)} <i>{caption.score:.2f}</i>"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--data", required=True, help="Parquet files (image, captions) or a captions JSON of COCO")
    parser.add_argument("--before", required=True, type=Path, metavar="BUNDLE", help="one model")
    parser.add_argument("--after", required=True, type=Path, metavar="BUNDLE", help="the other")
    parser.add_argument("--output", required=True, metavar="FILE", help="the page, in HTML")
    parser.add_argument("--images", type=int, default=50, metavar="N", help="photographs (default: %(default)s)")
    add_engine_options(parser.add_argument_group("speed"))
    add_decoding_options(parser.add_argument_group("decoding, of both"))
    return parser
