"""Protects Arrow's CSV reader from invalid bytes and unclosed quotes: they are marked before it, and restored after it.

Arrow raises an error for a record that has too many values and is not UTF-8, and a quote that is never closed makes all
lines up to the next quote part of one value. So such bytes and quotes pass it as characters of Unicode's private use
area.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

_ERRORS = "caption_images.marked_bytes"
_FIRST = 0x10FF00  # plus the byte
_MARKED = re.compile(rb"\xf4\x8f([\xbc-\xbf])([\x80-\xbf])")  # U+10FF00 to U+10FFFF
_QUOTE, _LINE_END, _RETURN = map(ord, '"\n\r')
_ENDS = re.compile(rb"[\r\n]")
_REST_OF_VALUE = re.compile(rb'[^"]*(?:""[^"]*)*"')  # behind a quote that opens it


def _mark(byte: int) -> str:
    return chr(_FIRST + byte)


def _mark_error(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "".join(map(_mark, error.object[error.start : error.end])), error.end


codecs.register_error(_ERRORS, _mark_error)


class MarkedBytes(io.RawIOBase):
    """A binary file whose content is UTF-8, and in which all quotes are closed.

    Args:
      file: the CSV.
      delimiter: between its values.
      block: how many bytes to read at a time; a value in quotes has half of it at most.
    """

    def __init__(self, file: BinaryIO, delimiter: str, block: int) -> None:
        super().__init__()
        self._blocks = closed_quotes(iter(lambda: file.read(block), b""), delimiter, block // 2)
        self._decoder = codecs.getincrementaldecoder("utf-8")(_ERRORS)
        self._waiting = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._waiting:
            data = next(self._blocks, None)
            self._waiting = memoryview(self._decoder.decode(data or b"", final=data is None).encode())
            if data is None:
                break
        taken = self._waiting[: len(buffer)]
        buffer[: len(taken)] = taken
        self._waiting = self._waiting[len(taken) :]
        return len(taken)


def without_marks(value: bytes) -> bytes:
    """The bytes that were read, of a value of a `MarkedBytes` file."""
    return _MARKED.sub(lambda match: bytes((match[2][0] - 0x80 + 0x40 * (match[1][0] - 0xBC),)), value)


def may_have_marks(data: bytes) -> bool:
    """Whether there is a mark among these values."""
    return _MARKED.search(data) is not None


def closed_quotes(blocks: Iterator[bytes], delimiter: str, longest: int) -> Iterator[bytes]:
    """The same CSV; a quote at the start of a value is marked if it is not closed at the end of a value.

    Args:
      blocks: the CSV.
      delimiter: between its values.
      longest: bytes within which a quote has to be closed.
    """
    separators = delimiter.encode() + b"\r\n"
    opening = re.compile(rb'(?:\A|[%s])"' % re.escape(separators))
    waiting = b""
    while True:
        block = next(blocks, None)
        data = waiting + (block or b"")
        whole = block is None or len(data) > 4 * longest  # else up to the end of a line
        end = len(data) if whole else data.rfind(b"\n") + 1
        lines, waiting = data[:end], data[end:]
        if _has_odd_line(lines):  # otherwise no value of several lines begins or ends here
            lines, opened = _with_marks(lines, opening, separators, 0 if block is None else longest)
            waiting = opened + waiting
        yield lines
        if block is None:
            return


def _has_odd_line(lines: bytes) -> bool:
    """Whether a line has an odd number of quotes."""
    if b'"' not in lines:
        return False
    found = np.frombuffer(lines, np.uint8)
    quotes = np.flatnonzero(found == _QUOTE)
    ends = np.flatnonzero((found == _LINE_END) | (found == _RETURN))
    before = np.searchsorted(quotes, ends)
    return bool((np.diff(before, prepend=0, append=len(quotes)) % 2).any())


def _with_marks(lines: bytes, opening: re.Pattern[bytes], separators: bytes, longest: int) -> tuple[bytes, bytes]:
    """The lines with marks, up to a quote that may be closed later: the second part, of `longest` bytes at most."""
    done: list[bytes] = []
    start = 0
    at = 0
    while match := opening.search(lines, at):
        quote = match.end() - 1
        rest = _REST_OF_VALUE.match(lines, match.end())
        if rest is None and len(lines) - quote < longest:
            return b"".join([*done, lines[start:quote]]), lines[quote:]
        if rest is not None and (
            rest.end() == len(lines) or lines[rest.end()] in separators or not _ENDS.search(rest.group())
        ):
            at = rest.end()
            continue
        done += [lines[start:quote], _mark(_QUOTE).encode()]
        start = at = quote + 1
    return b"".join([*done, lines[start:]]), b""
