"""Keeps users' code from ending the process: a silent exit with code 0 would look like success."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import NoReturn

_exit = os._exit
_process = os.getpid()
_threads: set[int] = set()  # those that run code of users


@contextlib.contextmanager
def no_exit() -> Iterator[None]:
    """Turns `os._exit` in this thread into SystemExit, for as long as the block lasts."""
    os._exit = _exit_or_raise
    thread = threading.get_ident()
    _threads.add(thread)
    try:
        yield
    finally:
        _threads.discard(thread)


def _exit_or_raise(status: int) -> NoReturn:
    # Not in a process that the user's code has forked, nor in a thread that ends the job because of a signal.
    if os.getpid() == _process and threading.get_ident() in _threads:
        raise SystemExit(status)
    _exit(status)
