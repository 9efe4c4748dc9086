"""One-line errors for stored files that cannot be used because they are damaged or of a newer format.

Every file carries a format number. A reader ignores fields and columns that it does not know; the number grows only
when an older reader would misread the rest.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import pyarrow as pa

from beam_job.storage import StorageError

_LOGGER = logging.getLogger(__name__)
FORMAT = 1
DAMAGED = "DamagedFile"  # StorageError.cause of a file that was read and is not what the job wrote
_MISSING = ("FileNotFoundError", "NotFound")
# What Arrow raises for a truncated file, a wrong checksum, a column that is missing or of another type.
_UNREADABLE = (pa.ArrowException, OSError, KeyError, ValueError, TypeError, RecursionError)


class NewerFormatError(StorageError):
    """A file was written by a newer version, whose format this one does not know."""


def check_format(name: str, found: object) -> None:
    """Checks the format number of the file `name`; files of the first versions have none (None).

    Raises:
      NewerFormatError: the format is newer than this version's.
      ValueError: `found` is not a number.
    """
    number = FORMAT if found is None else int(str(found))
    if number > FORMAT:
        raise NewerFormatError(
            f"{name} was written by a newer version of caption-images (format {number}; this version reads up to "
            f"{FORMAT}); upgrade caption-images"
        )


def is_unusable(error: StorageError) -> bool:
    """Whether a file was read but is damaged or of a newer version, rather than out of reach for now."""
    return isinstance(error, NewerFormatError) or is_damaged(error)


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
