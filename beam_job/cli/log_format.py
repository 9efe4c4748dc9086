"""The log on stderr: plain lines, or with `--log_format=json` one JSON object per line for log collectors.

The objects have the fields that Google Cloud Logging reads, `time`, `severity` and `message`, and further figures.
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
_SEVERITIES = {"caption-images: ": "ERROR", "warning: ": "WARNING"}  # by how a line begins


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
    """The JSON object for a line of the log, with further fields."""
    time = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
    severity = next((level for start, level in _SEVERITIES.items() if message.startswith(start)), "INFO")
    return json.dumps({"time": time, "severity": severity, "message": message, **fields}, default=str)


def log(message: str, stream: TextIO | None = None, **fields: Any) -> None:
    """Logs a line to stderr, or to `stream`; `fields` appear in JSON only."""
    stream = stream or sys.stderr
    if isinstance(stream, JsonLines):
        stream.emit(message, **fields)
    else:
        print(message, file=stream, flush=True)


def like_stderr(stream: TextIO) -> TextIO:
    """`stream`, with the log format of stderr."""
    if isinstance(sys.stderr, JsonLines):
        return cast(TextIO, JsonLines(stream))
    return stream


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether the arguments ask for JSON; they are not parsed yet, since that may fail."""
    return f"{_OPTION}=json" in arguments or (_OPTION, "json") in itertools.pairwise(arguments)


@contextlib.contextmanager
def stderr_in_json() -> Iterator[None]:
    """Makes everything that Python writes to stderr in this block JSON."""
    before = sys.stderr
    sys.stderr = cast(TextIO, JsonLines(before))
    try:
        yield
    finally:
        sys.stderr = before
