"""Removes optional chunks from PNGs that Pillow refuses because of them, although other programs show the image.

Programs that generate or edit images store megabytes of text or of a colour profile in compressed chunks, which Pillow
treats as an attack, and some tools write chunks with wrong checksums.
"""

from __future__ import annotations

import struct

_SIGNATURE = 8  # bytes
# PNG 1.2, section 4: what the picture consists of, its transparency, and its orientation.
_NEEDED = frozenset((b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND"))


def pixels_alone(data: bytes) -> bytes | None:
    """The PNG without the chunks that its picture does not need; None if it has no others."""
    parts = [data[:_SIGNATURE]]
    at = _SIGNATURE
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + length + 12  # with length, kind and checksum
        if kind in _NEEDED:
            parts.append(data[at:end])
        at = end
    return b"".join(parts) if sum(map(len, parts)) < min(at, len(data)) else None
