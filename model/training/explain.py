"""Draws the decoder's attention for each word of a caption, in one PNG for each image.

    python -m model explain dog.jpg cat.jpg --output=DIR

Each PNG shows the image and then a panel for each word: the image in grey, with the attention weights in red, as in
figure 2 of Xu et al. 2015, "Show, Attend and Tell". Red marks the grid positions whose features the decoder weighted
most when it chose the word. Each feature depends on a large part of the image, so red is often next to the object that
a word names, and does not prove that the word was derived from there.
"""

from __future__ import annotations

import argparse
import io
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from model.bundle import DEFAULT_BUNDLE, load_captioner
from model.caption import Caption
from model.decoding_options import add_decoding_options, decoding_from
from model.preprocessing import ImageError, load_image
from model.training.command import (
    EXIT_OK,
    EXIT_PARTIAL,
    check_output_file,
    command_parser,
    format_error,
    run_command,
    write_output_file,
)
from model.vocabulary import START

if TYPE_CHECKING:
    from model.captioner import Captioner

_COMMAND = "python -m model explain"  # in the PNGs, so that a later run may replace them
_PANEL = 240  # pixels, the longer side of an image
_TITLE, _MARGIN = 24, 8  # pixels
_COLUMNS = 5
_LETTER, _LINE = 7, 18  # pixels of the legend's font, width and height
_RED, _OPACITY = (255, 40, 0), 0.7
_LEGEND = (
    "Red: the parts of the picture that the decoder weighted most when it chose the word. Each part stands for a large "
    "area around it, so red is often next to the object that the word names, and proves nothing about the word."
)


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code: 0 success, 1 an image could not be explained, 2 nothing was done."""
    args = _parser().parse_args(argv)
    return run_command("explain", lambda: _explain_all(args))


def _explain_all(args: argparse.Namespace) -> int:
    names = [Path(image).name for image in args.images]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two images are named {repeated[0]}, and so would be their PNGs; run the command twice")
    decoding = decoding_from(args)
    outputs = [args.output / f"{name}.png" for name in names]
    for output in outputs:
        check_output_file(output, _COMMAND)
    captioner = load_captioner(args.model, decoding)
    args.output.mkdir(parents=True, exist_ok=True)
    code, drawn = EXIT_OK, False
    for image, output in zip(args.images, outputs, strict=True):
        try:
            caption, page = explain(captioner, Path(image).read_bytes())
        except (ImageError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else format_error(error)
            print(f"model explain: {image}: {reason}", file=sys.stderr)
            code = EXIT_PARTIAL
            continue
        write_output_file(output, _COMMAND, _png(page))
        print(f"{output}: {caption.text}")
        drawn = True
    if drawn:
        print(_LEGEND)
    return code


def _png(page: Image.Image) -> bytes:
    software = PngImagePlugin.PngInfo()
    software.add_text("Software", _COMMAND)
    buffer = io.BytesIO()
    page.save(buffer, "PNG", pnginfo=software)
    return buffer.getvalue()


def explain(captioner: Captioner, data: bytes) -> tuple[Caption, Image.Image]:
    """The caption of an image file, and the page with the attention of each word.

    Raises:
      ImageError: `data` cannot be decoded.
    """
    picture = load_image(data, _PANEL).in_proportion()
    pixels = load_image(data, captioner.input_size).pixels
    caption, weights = caption_with_attention(captioner, pixels)
    panels = [(f"score {caption.score:.2f}", picture)]
    for word, attention in zip(caption.text.split(" "), weights, strict=True):
        panels.append((word, overlay(picture, attention)))
    return caption, _page(panels)


def caption_with_attention(
    captioner: Captioner, pixels: npt.NDArray[np.uint8]
) -> tuple[Caption, npt.NDArray[np.float32]]:
    """The best caption of an image, and the attention weights for each of its T words.

    The decoder is run again on the words that the search found, which gives the same weights as the search.

    Args:
      captioner: a captioner of this project's architecture.
      pixels: uint8[S, S, 3].

    Returns:
      the caption, and float32[T, rows, columns] over the backbone's grid; the weights of a word add up to 1.
    """
    caption = captioner.caption(pixels[None])[0][0]
    numbers = {word: number for number, word in enumerate(captioner.vocabulary.words)}
    words = [numbers[word] for word in caption.text.split(" ")]
    before = np.array([[[START, *words[:-1]]]], np.int32)  # each word is chosen after the one before
    weights = captioner.decoder.attention_weights(before, captioner.encoder(pixels[None]))
    _, rows, columns, _ = captioner.encoder.backbone.output_shape
    return caption, np.asarray(weights, np.float32).reshape(len(words), rows, columns)


def overlay(picture: Image.Image, weights: npt.NDArray[np.float32]) -> Image.Image:
    """The picture in grey, in red where `weights` (float32[rows, columns]) are large.

    The model sees the picture scaled to a square, so the square grid is scaled to the picture's proportions.
    """
    share = Image.fromarray(weights / weights.max()).resize(picture.size, Image.Resampling.BICUBIC)
    opacity = Image.fromarray((_OPACITY * 255 * np.clip(np.asarray(share), 0, 1)).astype(np.uint8))
    return Image.composite(Image.new("RGB", picture.size, _RED), picture.convert("L").convert("RGB"), opacity)


def _page(panels: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Titled panels of equal size, arranged in rows, above the legend."""
    width, height = panels[0][1].size
    cell_width, cell_height = max(width, _PANEL // 2) + _MARGIN, height + _TITLE + _MARGIN
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    legend = textwrap.wrap(_LEGEND, width=columns * cell_width // _LETTER)
    bottom = rows * cell_height + _MARGIN
    page = Image.new("RGB", (columns * cell_width + _MARGIN, bottom + len(legend) * _LINE + _MARGIN), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(16)
    draw.multiline_text((_MARGIN, bottom), "\n".join(legend), "black", ImageFont.load_default(13), spacing=3)
    for number, (title, panel) in enumerate(panels):
        left = _MARGIN + number % columns * cell_width
        top = _MARGIN + number // columns * cell_height
        draw.text((left, top), title, "black", font)
        page.paste(panel, (left, top + _TITLE))
    return page


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("explain", __doc__)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="an image file")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the files IMAGE.png")
    parser.add_argument("--model", type=Path, default=DEFAULT_BUNDLE, help="the bundle (default: the bundled model)")
    add_decoding_options(parser.add_argument_group("decoding"))
    return parser
