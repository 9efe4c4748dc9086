"""JPEGs whose last bytes are missing: how much of the picture is lost, and a file that decoders accept.

Without the end-of-image marker, whose two bytes many cameras and broken transfers omit, the whole picture is there, and
browsers show it. How much is missing shows where the data ends: two decoded pictures, one of all the bytes and one of a
few bytes less, differ in the blocks that these few bytes encode, and nowhere below.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

_END = b"\xff\xd9"
_MOST_MISSING = 0.1  # of the height
_SIDE = 256  # of the pictures that are compared; they are decoded at a reduced size
# Bytes left out for the comparison: 32, or in a large file a 256th of it, which is less than a row of blocks.
_LEAST, _SHARE = 32, 256


def completed_jpeg(data: bytes) -> bytes | None:
    """`data` with the end that it lacks; None if more than a tenth of the picture is missing.

    Args:
      data: a JPEG that ends too early, with a header that was checked.
    """
    if data.endswith(_END):
        return None
    if not _ends_in_last_scan(data):
        return None
    removed = max(_LEAST, len(data) // _SHARE)
    whole, shorter = _decoded(data + _END), _decoded(data[:-removed] + _END)
    rows = np.flatnonzero((whole != shorter).any(axis=(1, 2)))
    if not len(rows) or 1 - (rows[-1] + 1) / len(whole) > _MOST_MISSING:
        return None
    return data + _END


def _ends_in_last_scan(data: bytes) -> bool:
    """Whether no scan is missing as a whole: the last one found is that in which coefficients get their last bits.

    In a sequential JPEG each component has one scan. A progressive one sends the bits of coefficients in several scans
    (ITU-T T.81, G.1.1.1): here all components must have got all 63 AC coefficients down to the last bit.
    """
    progressive = False
    components = 0
    complete: set[tuple[int, int]] = set()  # component and coefficient
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in (0x00, 0xFF) or 0xD0 <= marker <= 0xD8:  # in entropy-coded data, or without a length
            at += 1 if marker == 0xFF else 2
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            progressive, components = marker == 0xC2, data[at + 9]
        if marker == 0xDA:
            scan = data[at + 5 : at + 2 + length]
            ids = scan[: 2 * data[at + 4] : 2]
            first, last, bits = scan[-3:]
            if not progressive:
                first, last, bits = 1, 63, 0
            if bits & 15 == 0:
                complete |= {(name, place) for name in ids for place in range(max(first, 1), last + 1)}
        at += 2 + length
    return components > 0 and len(complete) == 63 * components


def _decoded(data: bytes) -> npt.NDArray[np.int16]:
    """int16[H, W, 3], at a reduced size."""
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        image.draft(None, (_SIDE, _SIDE))
        return np.asarray(image.convert("RGB"), np.int16)
