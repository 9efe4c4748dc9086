"""Keeps the start-up messages of TensorFlow and Beam from the terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import IO, TextIO

from beam_job.cli.host_limits import host_limit, host_limits_explained
from beam_job.cli.logs import LOGGER, is_logged_here, moved_to
from beam_job.cli.signals import Stopped
from beam_job.text import printable_lines


@contextlib.contextmanager
def quiet_stderr(verbose: bool = False, explained: tuple[type[BaseException], ...] = ()) -> Iterator[TextIO]:
    """Suppresses what this process and its children write to stderr in this block; shows it only if the block fails.

    Log levels are not enough. With `TF_CPP_MIN_LOG_LEVEL=3` and Python's loggers at ERROR, TensorFlow 2.21 still writes
    some ten lines about oneDNN, CUDA and XNNPACK to file descriptor 2, because absl logs before it is initialized, and
    Beam's worker processes set log levels of their own.

    Args:
      verbose: hold nothing back.
      explained: errors whose message is all that a user needs; nothing else is shown for them, nor for those that
        `host_limit` explains.

    Yields:
      the real stderr, to which the log goes meanwhile.
    """
    if verbose:
        yield sys.stderr
        return
    sys.stderr.flush()
    with (
        os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace") as terminal,
        moved_to(terminal),
        _temporary_file() as held_back,
    ):
        os.dup2(held_back.fileno(), 2)
        try:
            yield terminal
        except Stopped:
            terminal.flush()
            raise  # the process ends; messages of its threads about that stay hidden
        except BaseException as error:
            if not (isinstance(error, explained) or host_limit(error)):
                held_back.seek(0)
                _show(held_back.read().decode("utf-8", "replace"), terminal)
            _restore(terminal)
            raise
        else:
            _restore(terminal)


def _show(text: str, terminal: TextIO) -> None:
    if not is_logged_here():
        terminal.write(printable_lines(text))
    elif text.strip():
        LOGGER.info(text.rstrip())


def _temporary_file() -> IO[bytes]:
    with host_limits_explained():
        return tempfile.TemporaryFile()


def _restore(terminal: TextIO) -> None:
    sys.stderr.flush()
    terminal.flush()
    os.dup2(terminal.fileno(), 2)
