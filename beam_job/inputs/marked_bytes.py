"""Text that is not UTF-8, for a reader that stops at it: its bytes are marked on the way in, and restored afterwards.

Arrow's reader of CSV raises where a record that has too many values is not UTF-8 besides. A byte that is not part of
UTF-8 passes it as one of the last 128 characters of Unicode's private use area.
"""

from __future__ import annotations

import codecs
import io
import re
from typing import Any, BinaryIO

_ERRORS = "caption_images.marked_bytes"
_FIRST = 0x10FF00  # plus the byte, which is 0x80 at least
_MARKED = re.compile(rb"\xf4\x8f([\xbe\xbf])([\x80-\xbf])")  # U+10FF80 to U+10FFFF


def _mark(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "".join(chr(_FIRST + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(_ERRORS, _mark)


class MarkedBytes(io.RawIOBase):
    """A binary file whose content is UTF-8, whatever that of `file` is."""

    def __init__(self, file: BinaryIO, block: int) -> None:
        super().__init__()
        self._file = file
        self._block = block
        self._decoder = codecs.getincrementaldecoder("utf-8")(_ERRORS)
        self._waiting = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._waiting:
            data = self._file.read(self._block)
            self._waiting = memoryview(self._decoder.decode(data, final=not data).encode())
            if not data:
                break
        taken = self._waiting[: len(buffer)]
        buffer[: len(taken)] = taken
        self._waiting = self._waiting[len(taken) :]
        return len(taken)


def without_marks(value: bytes) -> bytes:
    """The bytes that were read, of a value of a `MarkedBytes` file."""
    return _MARKED.sub(lambda match: bytes((match[2][0] + 0x40 * (match[1][0] - 0xBE),)), value)


def may_have_marks(data: bytes) -> bool:
    """Whether there is a mark among these values."""
    return _MARKED.search(data) is not None
