"""Draws where the model looked for each word of a caption, one PNG an image.

    python -m model explain dog.jpg cat.jpg --output=DIR

Each PNG shows the photograph and then, a panel a word, the photograph in grey with the attention's weights in red:
red is where the decoder looked when it chose that word. After figure 2 of Xu et al. 2015, "Show, Attend and Tell".
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from model.bundle import DEFAULT_BUNDLE, BundleError, load_captioner
from model.caption import Caption
from model.captioner import Captioner
from model.decoding_options import add_decoding_options, decoding_from
from model.preprocessing import ImageError, load_image
from model.vocabulary import START

_PANEL = 240  # pixels, the longer side of a photograph
_TITLE, _MARGIN, _COLUMNS = 24, 8, 5
_RED, _OPACITY = (255, 40, 0), 0.7


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code: 0 done, 1 some image is none, 2 wrong usage."""
    args = _parser().parse_args(argv)
    names = [Path(image).name for image in args.images]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        return _refuse(f"two images are named {twice[0]}, and so would their PNGs be; give them in two calls")
    try:
        captioner = load_captioner(args.model, decoding_from(args))
        Path(args.output).mkdir(parents=True, exist_ok=True)
    except (BundleError, ValueError, OSError) as error:
        return _refuse(str(error))
    code = 0
    for image in args.images:
        try:
            data = Path(image).read_bytes()
            caption, page = explain(captioner, data)
        except (ImageError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            print(f"model explain: {image}: {reason}", file=sys.stderr)
            code = 1
            continue
        path = Path(args.output, f"{Path(image).name}.png")
        try:
            page.save(path)
        except OSError as error:
            return _refuse(f"{path}: {error}")
        print(f"{path}: {caption.text}")
    return code


def explain(captioner: Captioner, data: bytes) -> tuple[Caption, Image.Image]:
    """The caption of an image file, and the page that shows where its words come from.

    Raises:
      ImageError: `data` is no image that can be captioned.
    """
    photograph = load_image(data, _PANEL).in_proportion()
    pixels = load_image(data, captioner.input_size).pixels
    caption, weights = caption_with_attention(captioner, pixels)
    panels = [(f"score {caption.score:.2f}", photograph)]
    panels += [(word, marked(photograph, seen)) for word, seen in zip(caption.text.split(" "), weights, strict=True)]
    return caption, _page(panels)


def caption_with_attention(
    captioner: Captioner, pixels: npt.NDArray[np.uint8]
) -> tuple[Caption, npt.NDArray[np.float32]]:
    """The best caption of an image, and the attention's weights for each of its T words.

    The words that the search has found are put through the decoder again, which then looks where it looked before.

    Args:
      captioner: of this project's architecture.
      pixels: uint8[S, S, 3].

    Returns:
      the caption, and float32[T, rows, columns] over the backbone's grid; each word's sum is 1.
    """
    caption = captioner.caption(pixels[None])[0][0]
    numbers = {word: number for number, word in enumerate(captioner.vocabulary.words)}
    words = [numbers[word] for word in caption.text.split(" ")]
    before = np.array([[[START, *words[:-1]]]], np.int32)  # the word is chosen after these
    weights = captioner.decoder.attention_weights(before, captioner.encoder(pixels[None]))
    _, rows, columns, _ = captioner.encoder.backbone.output_shape
    return caption, np.asarray(weights, np.float32).reshape(len(words), rows, columns)


def marked(photograph: Image.Image, weights: npt.NDArray[np.float32]) -> Image.Image:
    """The photograph in grey, and red where `weights` (float32[rows, columns]) are large.

    The model sees a square, so the grid is stretched as the photograph was squeezed.
    """
    share = Image.fromarray(weights / weights.max()).resize(photograph.size, Image.Resampling.BICUBIC)
    opacity = Image.fromarray((_OPACITY * 255 * np.clip(np.asarray(share), 0, 1)).astype(np.uint8))
    return Image.composite(Image.new("RGB", photograph.size, _RED), photograph.convert("L").convert("RGB"), opacity)


def _page(panels: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Titled panels of one size in rows."""
    width, height = panels[0][1].size
    width_of_cell, height_of_cell = max(width, _PANEL // 2) + _MARGIN, height + _TITLE + _MARGIN
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    page = Image.new("RGB", (columns * width_of_cell + _MARGIN, rows * height_of_cell + _MARGIN), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(16)
    for number, (title, panel) in enumerate(panels):
        left = _MARGIN + number % columns * width_of_cell
        top = _MARGIN + number // columns * height_of_cell
        draw.text((left, top), title, "black", font)
        page.paste(panel, (left, top + _TITLE))
    return page


def _refuse(reason: str) -> int:
    print(f"model explain: {reason}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model explain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="an image file")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the PNGs, IMAGE.png each")
    parser.add_argument("--model", type=Path, default=DEFAULT_BUNDLE, help="the bundle (default: the one that ships)")
    add_decoding_options(parser.add_argument_group("decoding"))
    return parser
