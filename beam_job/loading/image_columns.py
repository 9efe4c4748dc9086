"""Computes the columns of `--image_columns`: facts about the file and its image, as used to build data sets."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from model.preprocessing import format_of, open_image

_LONGEST_TEXT = 1_000  # characters of an EXIF value
_NO_EXIF = "{}"


def image_columns(names: Sequence[str], data: bytes, pixels: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """The columns `names` of an image, in that order.

    Args:
      names: of `config.IMAGE_COLUMNS`.
      data: the file.
      pixels: uint8[H, W, 3], as the captioner sees them.
    """
    return {name: _COLUMNS[name](data, pixels) for name in names}


def _sha256(data: bytes, pixels: npt.NDArray[np.uint8]) -> str:
    return hashlib.sha256(data).hexdigest()


def _phash(data: bytes, pixels: npt.NDArray[np.uint8]) -> str:
    """64 bits as 16 hexadecimal digits; the picture is scaled to 32 x 32 for it, whatever its size was."""
    import imagehash

    return str(imagehash.phash(Image.fromarray(pixels)))


def _format(data: bytes, pixels: npt.NDArray[np.uint8]) -> str:
    return format_of(data)


def _bytes(data: bytes, pixels: npt.NDArray[np.uint8]) -> int:
    return len(data)


def _exif(data: bytes, pixels: npt.NDArray[np.uint8]) -> str | None:
    """Texts and numbers of the EXIF data by the names of their tags, as a JSON object; None without any."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_image(data, format_of(data)) as image:
                exif = image.getexif()
                parts: list[tuple[Mapping[int, str], Mapping[int, Any]]] = [
                    (ExifTags.TAGS, exif),
                    (ExifTags.TAGS, exif.get_ifd(ExifTags.IFD.Exif)),
                    (ExifTags.GPSTAGS, exif.get_ifd(ExifTags.IFD.GPSInfo)),
                ]
                found = {
                    names[tag]: _as_json(value)
                    for names, values in parts
                    for tag, value in sorted(values.items())
                    if tag in names
                }
        kept = {name: value for name, value in found.items() if value is not None}
        text = json.dumps(kept, ensure_ascii=False, allow_nan=False)
        text.encode()  # raises for lone surrogates
    except Exception:  # damaged metadata, which may raise anything
        return None
    return None if text == _NO_EXIF else text


def _as_json(value: Any) -> Any:
    """A value of EXIF; None for binary ones and those that are no finite number."""
    if isinstance(value, (tuple, list)):
        parts = [_as_json(part) for part in value[:_LONGEST_TEXT]]
        return None if None in parts else parts
    if isinstance(value, str):
        return value.replace("\0", "").strip()[:_LONGEST_TEXT]
    if isinstance(value, int):
        return value
    try:
        number = float(value)  # a rational
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if np.isfinite(number) else None


_COLUMNS: dict[str, Callable[[bytes, npt.NDArray[np.uint8]], Any]] = {
    "sha256": _sha256,
    "phash": _phash,
    "format": _format,
    "bytes": _bytes,
    "exif": _exif,
}
