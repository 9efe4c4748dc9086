"""The command's log: the logger `beam_job`, written to stderr as plain lines or, for log collectors, as JSON.

Other programs that call `run_job` configure this logger themselves, like that of any library. The JSON objects have the
fields that Google Cloud Logging reads: `time`, `severity` and `message`. Further fields of a record are given by
`extra={"fields": {...}}`.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import TextIO

from tqdm import tqdm

from beam_job.text import printable_lines

LOG_FORMATS = ("text", "json")
LOGGER = logging.getLogger("beam_job")
_OPTION = "--log_format"
_PREFIXES = {"WARNING": "warning: ", "ERROR": "caption-images: "}


class TextFormatter(logging.Formatter):
    """The message; warnings and errors say what they are."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(_PREFIXES.get(record.levelname, "") + super().format(record))


class JsonFormatter(logging.Formatter):
    """An object in one line."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc).isoformat(timespec="milliseconds")
        entry = {"time": time, "severity": record.levelname, "message": super().format(record)}
        return json.dumps(entry | getattr(record, "fields", {}), default=str)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes between two states of a progress bar, if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        # The lock is not left to tqdm, which releases it even if a signal came before it had it.
        with tqdm.get_lock(), tqdm.external_write_mode(file=self.stream, nolock=True):
            super().emit(record)


@contextlib.contextmanager
def log_to(stream: TextIO, in_json: bool = False) -> Iterator[logging.Handler]:
    """Writes the log to `stream` in this block; the handlers of other loggers get nothing of it.

    A command that runs another one, as `demo` does, has the log written already, and each line comes once.
    """
    for given in LOGGER.handlers:
        if isinstance(given, _Handler):
            yield given
            return
    tqdm.set_lock(threading.RLock())  # its own starts a process, at a time when a signal may come
    handler = _Handler(stream)
    handler.setFormatter(JsonFormatter() if in_json else TextFormatter())
    before = LOGGER.level, LOGGER.propagate
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    LOGGER.addHandler(handler)
    try:
        yield handler
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.level, LOGGER.propagate = before


@contextlib.contextmanager
def moved_to(stream: TextIO) -> Iterator[None]:
    """Moves a log on stderr to another stream in this block, in which stderr is redirected."""
    moved = [each for each in LOGGER.handlers if isinstance(each, _Handler) and each.stream is sys.stderr]
    for handler in moved:
        handler.setStream(stream)
    try:
        yield
    finally:
        for handler in moved:
            handler.setStream(sys.stderr)


def is_logged_here() -> bool:
    """Whether `log_to` writes the log, as in the command; otherwise another program decides about its logs."""
    return any(isinstance(handler, _Handler) for handler in LOGGER.handlers)


def format_error(message: str, handler: logging.Handler) -> str:
    """An error as the handler writes it, without writing it."""
    return handler.format(LOGGER.makeRecord(LOGGER.name, logging.ERROR, "", 0, message, (), None))


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether the arguments ask for JSON; they are not parsed yet, since that may fail."""
    return f"{_OPTION}=json" in arguments or (_OPTION, "json") in itertools.pairwise(arguments)
