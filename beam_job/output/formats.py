"""The format number that every file of an output carries, so that a reader knows whether it understands the file.

A reader ignores fields and columns that it does not know; the number grows only when it would misread the rest.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from beam_job.planning.damage import DAMAGED, is_damaged
from beam_job.storage import StorageError
from beam_job.storage.parquet import read_parquet

FORMAT = 1
_KEY = b"caption_images.format"
PARQUET_FORMAT = {_KEY: str(FORMAT).encode()}  # key-value metadata of a Parquet file
_REDO = "remove it, and the next run captions its images again"


class NewerFormatError(StorageError):
    """A file was written by a newer version, whose format this one does not know."""


def is_unusable(error: StorageError) -> bool:
    """Whether a file was read but is damaged or of a newer version, rather than out of reach for now."""
    return isinstance(error, NewerFormatError) or is_damaged(error)


def check_format(name: str, found: object) -> None:
    """Checks the format number of the file `name`; files of the first versions have none (None).

    Raises:
      NewerFormatError: the format is newer than this version's.
      ValueError: `found` is not a number.
    """
    number = 1 if found is None else int(str(found))
    if number > FORMAT:
        raise NewerFormatError(
            f"{name} was written by a newer version (format {number}; this version reads up to {FORMAT}); "
            "update caption-images to read it"
        )


def open_part(uri: str) -> pq.ParquetFile:
    """Opens a Parquet file that a run wrote.

    Raises:
      NewerFormatError: a newer version wrote it.
      StorageError: it cannot be read, or is damaged.
    """
    try:
        file = read_parquet(uri)
        found = (file.metadata.metadata or {}).get(_KEY)
        check_format(uri, None if found is None else found.decode("ascii"))
        return file
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged_part(uri, error) from error


def damaged_part(uri: str, reason: object) -> StorageError:
    """The error for a part that holds something else than a run writes."""
    [line, *_] = str(reason).splitlines() or [repr(reason)]
    return StorageError(f"{uri} is damaged ({line}); {_REDO}", DAMAGED)
