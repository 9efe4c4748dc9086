"""Stored files of the job that cannot be used: one line that names the file and says what to do."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import pyarrow as pa

from beam_job.storage import StorageError

_LOGGER = logging.getLogger(__name__)
DAMAGED = "DamagedFile"  # StorageError.cause of a file that was read and is not what the job wrote
_MISSING = ("FileNotFoundError", "NotFound")
# What Arrow raises for a truncated file, a wrong checksum, a column that is missing or of another type.
_UNREADABLE = (pa.ArrowException, OSError, KeyError, ValueError, TypeError, RecursionError)


def is_damaged(error: StorageError) -> bool:
    """Whether the file was read and is damaged, rather than out of reach for now."""
    return error.cause == DAMAGED


def is_missing(error: StorageError) -> bool:
    """Whether there is no such file."""
    return error.cause in _MISSING


@contextlib.contextmanager
def naming_damage(uri: str, remedy: str) -> Iterator[None]:
    """In this block the contents of `uri` are parsed; what goes wrong is a StorageError of the cause `DAMAGED`.

    Args:
      uri: of the file.
      remedy: what happens without it, and what the user can do.
    """
    try:
        yield
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise StorageError(f"{uri} is damaged ({reason}); {remedy}", DAMAGED) from error


def warn(error: Exception) -> None:
    """Logs the error as a warning."""
    _LOGGER.warning(str(error))
