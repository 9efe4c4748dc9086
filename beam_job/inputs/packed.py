"""Images stored inside Parquet, as in many data sets: a column of bytes, often the field `bytes` of a struct.

A plan contains the position of each image, not its bytes: the list, the row group, the row in it and the column. The
worker that needs the first image of a row group copies the group's images to a temporary file, page by page, so that
neither it nor the machine that lists holds more than a page in memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_job.inputs.list_formats import BATCH_ROWS, plain, unreadable
from beam_job.inputs.names import HEAD_BYTES, is_image_head
from beam_job.inputs.rows import ListError
from beam_job.inputs.shared_cache import SharedCache
from beam_job.storage import CONTENT, StorageError, storage_for
from beam_job.storage.base import ByteMeter

_BUFFER_BYTES = 1 << 20  # of a column that is read; without it, the whole column of a row group is
_PAGE_ROWS = 16
_LOOKED_AT = 64  # rows, to find out whether a column holds images
_GROUPS_KEPT = 8
_FILES_KEPT = 2
_ROW = re.compile(r"(.*\.parquet)#row=(\d+)", re.DOTALL | re.IGNORECASE)
_BINARY = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)


class NoBytesError(StorageError):
    """The bytes of an image are null; its path may say where they are."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "BadRow", retry_when=CONTENT)


@dataclass(frozen=True)
class Place:
    """Where an image lies: `given` is the list, `row` the row within row group `group`."""

    given: str
    group: int
    row: int
    column: str

    def to_json(self) -> str:
        """The value of `parquet_place`."""
        return json.dumps([self.given, self.group, self.row, self.column])

    @classmethod
    def from_json(cls, text: str) -> Place:
        return cls(*json.loads(text))


def holds_images(given: str, column: str) -> bool:
    """Whether one of the first values of a column is an image; False for a column that is no bytes."""
    with storage_for(given).open(given) as file, _parquet(given, file) as parquet, unreadable(given, "Parquet"):
        for batch in parquet.iter_batches(_LOOKED_AT, columns=[column]):
            values = plain(_flat(batch, column))
            if not any(is_binary(values.type) for is_binary in _BINARY):
                return False
            if len(known := values.drop_null()):
                return any(is_image_head(value.as_py()[:HEAD_BYTES]) for value in known)
    return False


def row_groups(given: str, columns: Sequence[str]) -> Iterator[tuple[int, int, pa.RecordBatch]]:
    """Row group, number within it of the first row, and `columns` of each batch of rows."""
    with storage_for(given).open(given) as file, _parquet(given, file) as parquet:
        for group in range(parquet.metadata.num_row_groups):
            row = 0
            if not columns:
                rows = parquet.metadata.row_group(group).num_rows
                yield group, 0, pa.record_batch({"": pa.nulls(rows)})
                continue
            for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=list(columns)):
                top = set(batch.schema.names)
                arrays = [plain(batch.column(name) if name in top else _flat(batch, name)) for name in columns]
                yield group, row, pa.record_batch(arrays, names=list(columns))
                row += batch.num_rows


def path_column(column: str, names: Sequence[str]) -> str | None:
    """`image.path` beside `image.bytes`, if it is among `names`."""
    sibling = f"{column.removesuffix('bytes')}path"
    return sibling if column.endswith("bytes") and sibling in names else None


def read_image(
    place: Place,
    version: str | None,
    max_bytes: int | None = None,
    on_size: Callable[[int], None] | None = None,
) -> tuple[bytes, str]:
    """The bytes of an image, and the version of the list that holds it.

    Args:
      place: from the plan.
      version: of the list when it was read.
      max_bytes: see `Storage.read`.
      on_size: see `Storage.read`.

    Raises:
      NoBytesError: there are none.
      StorageError: it cannot be read, or the list has changed.
    """
    name = f"{place.given}: row {place.row} of row group {place.group}"
    found = storage_for(place.given).stat(place.given).version
    if version and found != version:
        raise StorageError(
            f"{place.given} has changed since it was listed: it is now version {found} instead of {version}",
            "ListChanged",
        )
    spooled = _GROUPS.get((place.given, found, place.group, place.column))
    begin, size = spooled.places[place.row]
    if size < 0:
        raise NoBytesError(f"{name} has no bytes in column {place.column}")
    ByteMeter(name, max_bytes, on_size).check(size)
    return os.pread(spooled.file.fileno(), size, begin), found


def list_of_row(uri: str) -> str | None:
    """The list that `x.parquet#row=N` names a row of; None for another URI."""
    match = _ROW.fullmatch(uri)
    return match[1] if match else None


def place_of_row(uri: str) -> Place:
    """The place of the image that `x.parquet#row=N` names, in the first column that may hold images.

    Raises:
      StorageError: the list cannot be read, or has no such row or column.
    """
    match = _ROW.fullmatch(uri)
    assert match is not None
    given, row = match[1], int(match[2]) - 1
    opened = _FILES.get((given, storage_for(given).stat(given).version))
    column = _image_column(opened.parquet.schema_arrow)
    for group in range(opened.parquet.metadata.num_row_groups if column else 0):
        rows = opened.parquet.metadata.row_group(group).num_rows
        if 0 <= row < rows:
            return Place(given, group, row, str(column))
        row -= rows
    raise StorageError(f"{uri}: the list has no such row, or no column of images", "NoSuchRow", retry_when=CONTENT)


def _image_column(schema: pa.Schema) -> str | None:
    for field in schema:
        if any(is_binary(field.type) for is_binary in _BINARY):
            return str(field.name)
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            return f"{field.name}.bytes"
    return None


@dataclass(frozen=True)
class _Spooled:
    """The images of a row group in a temporary file: begin and size of each, size -1 where there are no bytes."""

    file: BinaryIO
    places: list[tuple[int, int]]

    def __del__(self) -> None:
        self.file.close()


def _spool(key: tuple[str, str, int, str]) -> _Spooled:
    given, version, group, column = key
    opened = _FILES.get((given, version))
    with contextlib.ExitStack() as undo, _storage_errors(given), opened.lock:
        spooled = _Spooled(undo.enter_context(tempfile.TemporaryFile()), [])
        for batch in opened.parquet.iter_batches(_PAGE_ROWS, row_groups=[group], columns=[column]):
            for value in plain(_flat(batch, column)):
                data = value.as_py()
                spooled.places.append((spooled.file.tell(), -1 if data is None else len(data)))
                spooled.file.write(data or b"")
        spooled.file.flush()
        undo.pop_all()
    return spooled


@dataclass(frozen=True)
class _Opened:
    """An open list; its lock is held while it is read."""

    file: BinaryIO
    parquet: pq.ParquetFile
    lock: threading.Lock

    def __del__(self) -> None:
        self.parquet.close()
        self.file.close()


def _open(key: tuple[str, str]) -> _Opened:
    given, _ = key
    with _storage_errors(given):
        file = storage_for(given).open(given)
        return _Opened(file, _parquet(given, file), threading.Lock())


@contextlib.contextmanager
def _storage_errors(given: str) -> Iterator[None]:
    try:
        with unreadable(given, "Parquet"):
            yield
    except ListError as error:
        raise StorageError(str(error), "DamagedParquet", retry_when=CONTENT) from error


_GROUPS = SharedCache(_GROUPS_KEPT, _spool)
_FILES = SharedCache(_FILES_KEPT, _open)


def _parquet(given: str, file: BinaryIO) -> pq.ParquetFile:
    with unreadable(given, "Parquet"):
        return pq.ParquetFile(file, buffer_size=_BUFFER_BYTES)


def _flat(batch: pa.RecordBatch, name: str) -> pa.Array:
    if name in batch.schema.names:
        return batch.column(name)
    first, *rest = name.split(".")
    return pc.struct_field(plain(batch.column(first)), rest)
