"""Protects Arrow's CSV reader from invalid bytes and unclosed quotes: they are marked before it, and restored after it.

Arrow raises an error for a record that has too many values and is not UTF-8, and a quote that is never closed makes all
lines up to the next quote part of one value. So such bytes and quotes pass it as characters of Unicode's private use
area, one for each of the 256 bytes:

    uri,text
    /a.jpg,"never closed      the quote is marked, so that the value ends with its line
    /b.jpg,caf<E9>            the byte E9 is marked, since it is not UTF-8
    /c.jpg,"two
    lines"                    nothing is marked: the quote is closed at the end of a value
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

_ERRORS = "caption_images.marked_bytes"
_FIRST = 0x10FF00  # the mark of the byte 0
_MARKED = re.compile(rb"\xf4\x8f[\xbc-\xbf][\x80-\xbf]")  # U+10FF00 to U+10FFFF
_QUOTE, _LINE_END, _RETURN = map(ord, '"\n\r')
_QUOTED_VALUE = re.compile(rb'"[^"]*(?:""[^"]*)*"')  # quotes inside of it are doubled


def _mark(byte: int) -> str:
    return chr(_FIRST + byte)


def _unmark(mark: re.Match[bytes]) -> bytes:
    return bytes([ord(mark[0].decode()) - _FIRST])


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
    return _MARKED.sub(_unmark, value)


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
    waiting = b""
    for block in blocks:
        data = waiting + block
        end = data.rfind(b"\n") + 1 if len(data) <= 4 * longest else len(data)  # else a line that is too long
        lines, unclosed = _mark_unclosed(data[:end], separators, longest)
        waiting = unclosed + data[end:]
        yield lines
    yield _mark_unclosed(waiting, separators, 0)[0]


def _mark_unclosed(lines: bytes, separators: bytes, longest: int) -> tuple[bytes, bytes]:
    """The lines with marks, and what begins with a quote that later lines may close: fewer than `longest` bytes."""
    if not _has_odd_line(lines):  # no value of several lines begins or ends here
        return lines, b""
    opening = re.compile(rb'(?:\A|[%s])"' % re.escape(separators))
    done: list[bytes] = []
    start = at = 0  # of what is not in `done` yet, and of what is not examined yet
    while match := opening.search(lines, at):
        quote = match.end() - 1
        value = _QUOTED_VALUE.match(lines, quote)
        if value is None and len(lines) - quote < longest:
            return b"".join([*done, lines[start:quote]]), lines[quote:]
        if value is not None and _is_closed(value, separators):
            at = value.end()
        else:
            done += [lines[start:quote], _mark(_QUOTE).encode()]
            start = at = quote + 1
    return b"".join([*done, lines[start:]]), b""


def _is_closed(value: re.Match[bytes], separators: bytes) -> bool:
    """Whether a value in quotes is closed at its end, or else in the line of its start: then no other row suffers."""
    lines, end = value.string, value.end()
    return end == len(lines) or lines[end] in separators or not re.search(rb"[\r\n]", value[0])


def _has_odd_line(lines: bytes) -> bool:
    """Whether a line has an odd number of quotes. With NumPy, since every block of every list is searched."""
    if b'"' not in lines:
        return False
    found = np.frombuffer(lines, np.uint8)
    quotes = np.flatnonzero(found == _QUOTE)
    ends = np.flatnonzero((found == _LINE_END) | (found == _RETURN))
    before = np.searchsorted(quotes, ends)
    return bool((np.diff(before, prepend=0, append=len(quotes)) % 2).any())
