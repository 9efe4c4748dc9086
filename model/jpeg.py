"""Estimates from a JPEG's header how much work decoding takes.

A JPEG is decoded at the smallest reduced size that exceeds the requested one by a quarter (`model.preprocessing`). The
table is for the 1,000 images of Flickr8k's dev split, scaled up with noise as detail, then scaled to 256x256 by
Pillow's bicubic filter and captioned by the default model; times are with the faster scaling of `model.preprocessing`:

                 decoded whole      at a reduced size
                 CPU ms   CIDEr     CPU ms   CIDEr   captions changed
    640x640         1.5    56.8        1.0    57.4                270
    1024x683        2.0    56.9        1.4    57.8                285
    1024x768        2.2    57.3        1.6    57.1                238
    1280x720        2.5    57.7        1.8    57.3                242
    1920x1080       5.9    57.6        3.8    57.9                214

At smaller reduced sizes, images of five sizes (512x512, 540x540, 640x512, 1080x1080, 1920x1080) lost 0.3 CIDEr on
average. Scaling is a small part of these times; with Pillow's own filter it is most of them (whole 3.5 to 15.9 ms,
reduced 1.6 to 6.2 ms).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

# ITU-T T.81, table B.1: second bytes of the markers.
_SOF0, _SOF2, _SOS = 0xC0, 0xC2, 0xDA
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # without DHT, JPG and DAC

# An image in several scans is held in memory as a whole, with 6 bytes for each pixel, and every scan visits all pixels,
# however short it is: a file of 1 MB can have thousands of scans. Cameras write at most 10.
_MAX_MULTI_SCAN_PIXELS = 25_000_000
_MAX_MULTI_SCAN_WORK = 250_000_000  # pixels x scans
_MAX_HEADER = 4 * 2**20  # bytes; Pillow takes quadratic time for metadata in many segments


@dataclass(frozen=True)
class JpegHeader:
    """The part of a JPEG before its first scan.

    Attributes:
      frame: second byte of its start-of-frame marker: 0xC0 baseline, 0xC2 progressive, ...
      width: pixels.
      height: pixels.
      components: colour channels.
      components_of_scan: colour channels in the first scan.
      length: bytes before the first scan.
    """

    frame: int
    width: int
    height: int
    components: int
    components_of_scan: int
    length: int


def read_jpeg_header(data: bytes) -> JpegHeader | None:
    """The header of a JPEG whose segments follow each other without gaps; None for anything else."""
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    at = 2
    frame: tuple[int, int, int, int] | None = None
    try:
        while data[at] == 0xFF:
            marker, length = struct.unpack_from(">BH", data, at + 1)
            if marker == _SOS:
                return frame and JpegHeader(*frame, components_of_scan=data[at + 4], length=at)
            if marker in _SOF:
                height, width, components = struct.unpack_from(">HHB", data, at + 5)
                frame = (marker, width, height, components)
            if marker == 0xFF:  # a fill byte
                at += 1
            elif marker < _SOF0 or 0xD0 <= marker <= 0xD9:  # markers without a length
                return None
            else:
                at += 2 + length
    except (IndexError, struct.error):
        pass
    return None


def is_one_pass(data: bytes, header: JpegHeader) -> bool:
    """Whether decoding at a reduced size holds only that size in memory: one scan, with enough bytes for its pixels."""
    sequential = header.frame in (_SOF0, _SOF0 + 1) and header.components_of_scan == header.components
    # A block of 8 x 8 pixels takes at least two bits, so a byte encodes at most 256 pixels.
    return sequential and header.width * header.height <= 256 * len(data)


def is_plain_jpeg(data: bytes) -> bool:
    """Whether `data` is a JPEG of a common kind, which takes bounded time and memory to decode."""
    header = read_jpeg_header(data)
    if header is None or not _SOF0 <= header.frame <= _SOF2 or header.length > _MAX_HEADER:
        return False
    pixels = header.width * header.height
    if is_one_pass(data, header):
        return True
    # Entropy-coded data never contains a marker (T.81, B.1.1.5), so this counts the scans, including a thumbnail's.
    return pixels <= _MAX_MULTI_SCAN_PIXELS and pixels * data.count(b"\xff\xda") <= _MAX_MULTI_SCAN_WORK
