"""Keeps the start-up messages of TensorFlow and Beam from the terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import TextIO

from beam_job.cli.log_format import like_stderr
from beam_job.cli.signals import Stopped
from beam_job.text import printable_lines


@contextlib.contextmanager
def quiet_stderr(verbose: bool = False, plain: tuple[type[BaseException], ...] = ()) -> Iterator[TextIO]:
    """Holds back what this process and its children write to stderr in this block; shows it only if the block fails.

    Log levels do not suffice: TensorFlow's C++ code writes to file descriptor 2 before they apply, and Beam's worker
    processes set their own.

    Args:
      verbose: hold nothing back.
      plain: errors that say it all in their message: nothing is shown for them.

    Yields:
      the real stderr, for what people should see meanwhile.
    """
    if verbose:
        yield sys.stderr
        return
    sys.stderr.flush()
    with (
        os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace") as real,
        tempfile.TemporaryFile() as held_back,
    ):
        terminal = like_stderr(real)
        os.dup2(held_back.fileno(), 2)
        try:
            yield terminal
        except Stopped:
            terminal.flush()
            raise  # the process ends; what its threads say of that stays held back
        except BaseException as error:
            if not isinstance(error, plain):
                held_back.seek(0)
                terminal.write(printable_lines(held_back.read().decode("utf-8", "replace")))
            _turn_back(terminal)
            raise
        else:
            _turn_back(terminal)


def _turn_back(terminal: TextIO) -> None:
    sys.stderr.flush()
    terminal.flush()
    os.dup2(terminal.fileno(), 2)
