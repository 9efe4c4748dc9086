"""What the command says on stderr: lines for people, or with `--log_format=json` an object a line for log collectors.

The objects have the fields that Google Cloud Logging reads, `time`, `severity` and `message`, and figures beside them.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TextIO, cast

LOG_FORMATS = ("text", "json")
_OPTION = "--log_format"
_ERROR = "caption-images: "  # begins what the command says before it gives up


class JsonLines(io.TextIOBase):
    """Takes text and writes an object for each line of it.

    Args:
      stream: to write to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                self.emit(line)
        return len(text)

    def emit(self, message: str, **fields: Any) -> None:
        """Writes one object."""
        self._stream.write(f"{json_line(message, **fields)}\n")
        self._stream.flush()

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True


def json_line(message: str, **fields: Any) -> str:
    """The object of a line, with further fields."""
    time = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
    severity = "ERROR" if message.startswith(_ERROR) else "INFO"
    return json.dumps({"time": time, "severity": severity, "message": message, **fields}, default=str)


def tell(message: str, stream: TextIO | None = None, **fields: Any) -> None:
    """Says a line on stderr, or on `stream`; `fields` are for log collectors alone."""
    stream = stream or sys.stderr
    if isinstance(stream, JsonLines):
        stream.emit(message, **fields)
    else:
        print(message, file=stream, flush=True)


def like_stderr(stream: TextIO) -> TextIO:
    """`stream`, in the format that stderr has."""
    if isinstance(sys.stderr, JsonLines):
        return cast(TextIO, JsonLines(stream))
    return stream


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether these arguments ask for it: known before they are parsed, for that may fail."""
    return f"{_OPTION}=json" in arguments or (_OPTION, "json") in itertools.pairwise(arguments)


@contextlib.contextmanager
def stderr_in_json() -> Iterator[None]:
    """In this block, all that Python writes to stderr is JSON."""
    before = sys.stderr
    sys.stderr = cast(TextIO, JsonLines(before))
    try:
        yield
    finally:
        sys.stderr = before
