"""What a JPEG's header tells of the work that decoding it makes.

A JPEG is decoded at the smallest of its sizes that is a quarter more than the wanted one (`model.preprocessing`). The
1,000 photographs of Flickr8k's dev split, scaled up with noise in place of detail, then made 256x256 by Pillow's
bicubic filter and captioned by the model that ships; the times are with the faster scaling of `model.preprocessing`:

                 decoded whole      at a reduced size
                 CPU ms   CIDEr     CPU ms   CIDEr   captions changed
    640x640         1.5    56.8        1.0    57.4                270
    1024x683        2.0    56.9        1.4    57.8                285
    1024x768        2.2    57.3        1.6    57.1                238
    1280x720        2.5    57.7        1.8    57.3                242
    1920x1080       5.9    57.6        3.8    57.9                214

Reduced to less than that, pictures of five sizes (512x512, 540x540, 640x512, 1080x1080, 1920x1080) lost 0.3 of CIDEr
on average. Scaling is a small part of these times; with Pillow's own filter it is most of them (whole 3.5 to 15.9,
reduced 1.6 to 6.2).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

# ITU-T T.81, table B.1: second bytes of the markers.
_SOF0, _SOF2, _SOS = 0xC0, 0xC2, 0xDA
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # but DHT, JPG and DAC

# A picture in several scans is held whole, 6 bytes a pixel, and each scan goes over all of it, however few its bytes:
# a file of 1 MB can hold thousands. Camera pictures have 10 scans at most.
_PASSES_PIXELS = 25_000_000
_PASSES_WORK = 250_000_000  # pixels x scans
_LONGEST_HEADER = 4 * 2**20  # bytes; Pillow takes quadratic time over metadata in many segments


@dataclass(frozen=True)
class JpegHeader:
    """A JPEG from its start to its first scan.

    Attributes:
      frame: second byte of its start-of-frame marker: 0xC0 baseline, 0xC2 progressive, ...
      width: pixels.
      height: pixels.
      components: colour channels.
      components_of_scan: of them, in the first scan.
      length: bytes before the first scan.
    """

    frame: int
    width: int
    height: int
    components: int
    components_of_scan: int
    length: int


def read_jpeg_header(data: bytes) -> JpegHeader | None:
    """The header of a JPEG whose segments follow each other without a gap, or None for anything else."""
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
            elif marker < _SOF0 or 0xD0 <= marker <= 0xD9:  # these have no length
                return None
            else:
                at += 2 + length
    except (IndexError, struct.error):
        pass
    return None


def is_one_pass(data: bytes, header: JpegHeader) -> bool:
    """Whether a reduced size is all that decoding holds: one scan, and as many bytes as its pixels need at least."""
    sequential = header.frame in (_SOF0, _SOF0 + 1) and header.components_of_scan == header.components
    # The shortest block of 8 x 8 pixels has two bits, so a byte is good for 256 pixels.
    return sequential and header.width * header.height <= 256 * len(data)


def is_plain_jpeg(data: bytes) -> bool:
    """Whether `data` is a JPEG of the usual kinds, whose decoding takes bounded time and memory."""
    header = read_jpeg_header(data)
    if header is None or not _SOF0 <= header.frame <= _SOF2 or header.length > _LONGEST_HEADER:
        return False
    pixels = header.width * header.height
    if is_one_pass(data, header):
        return True
    # Entropy-coded bytes never look like a marker (T.81, B.1.1.5), so this counts scans, a thumbnail's too.
    return pixels <= _PASSES_PIXELS and pixels * data.count(b"\xff\xda") <= _PASSES_WORK
