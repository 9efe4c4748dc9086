"""Parquet files of an output: their format number, and the errors of files that cannot be used."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from beam_job.planning.damage import DAMAGED, FORMAT, check_format
from beam_job.storage import StorageError
from beam_job.storage.parquet import read_parquet

_KEY = b"caption_images.format"
PARQUET_FORMAT = {_KEY: str(FORMAT).encode()}  # key-value metadata of a Parquet file
_REDO = "remove it, and the next run captions its images again"


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
