"""The formats of lists: each is read into batches of rows, plus the rows that could not be read.

CSV and JSON have modules of their own.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_job.inputs.names import HEAD_BYTES, is_lfs_pointer
from beam_job.inputs.rows import ListError, UnreadableListError
from beam_job.storage import storage_for

BATCH_ROWS = 65_536
BLOCK_BYTES = 1 << 20
_UNREADABLE = (
    *(pa.ArrowException, ValueError, OSError, EOFError, OverflowError, RecursionError),
    *(zlib.error, lzma.LZMAError),
)
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_UNPACK: dict[str, Callable[[BinaryIO], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": lambda file: io.BufferedReader(pa.CompressedInputStream(file, "zstd"), BLOCK_BYTES),
    ".zstd": lambda file: io.BufferedReader(pa.CompressedInputStream(file, "zstd"), BLOCK_BYTES),
}
PACKED_SUFFIXES = tuple(_UNPACK)


@dataclass(frozen=True)
class Rows:
    """Some rows of a list.

    Attributes:
      batch: the columns that were asked for.
      numbers: of the rows of `batch`, from 1; lines in text and JSON lines, records elsewhere.
      bad: numbers of rows that could not be read, and why.
    """

    batch: pa.RecordBatch
    numbers: Sequence[int]
    bad: Sequence[tuple[int, str]] = field(default=())


@contextlib.contextmanager
def unreadable(given: str, label: str) -> Iterator[None]:
    """Turns errors of reading into UnreadableListError."""
    try:
        yield
    except ListError:
        raise
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise UnreadableListError(
            f"{given} cannot be read as {label}: {reason}; fix the file or its extension"
        ) from error


def check_is_no_pointer(given: str) -> None:
    """Raises UnreadableListError for what Git leaves in place of a large file that was not fetched."""
    with storage_for(given).open(given) as file:
        if is_lfs_pointer(file.read(HEAD_BYTES)):
            raise UnreadableListError(f"{given} is a Git LFS pointer; fetch the file with: git lfs pull")


@contextlib.contextmanager
def opened(given: str, label: str) -> Iterator[BinaryIO]:
    """The content of a list, decompressed."""
    storage = storage_for(given)
    storage.stat(given)  # a missing list is an error of the storage, not of the list's format
    unpack = next((unpack for suffix, unpack in _UNPACK.items() if given.lower().endswith(suffix)), None)
    with unreadable(given, label), storage.open(given) as file:
        if unpack is None:
            yield file
        else:
            with unpack(file) as plain:
                yield plain


@contextlib.contextmanager
def opened_text(given: str, label: str) -> Iterator[BinaryIO]:
    """The content of a list of text, decompressed; UTF-16, as Excel and PowerShell write it, becomes UTF-8."""
    with opened(given, label) as raw:
        file = io.BufferedReader(raw, BLOCK_BYTES)  # type: ignore[type-var]  # storages open files that it can read
        is_utf16 = file.peek(2)[:2] in _UTF16
        yield io.BytesIO(file.read().decode("utf-16").encode()) if is_utf16 else file


def line_blocks(given: str, label: str) -> Iterator[list[tuple[int, str | bytes]]]:
    """The lines that are not blank, stripped, with their numbers, about 1 MiB at a time; bytes if they are no UTF-8."""
    number = 0
    with opened_text(given, label) as file:
        while block := file.read(BLOCK_BYTES) + file.readline():
            block = block if number else block.removeprefix(b"\xef\xbb\xbf")
            # Not splitlines, which also splits at characters that may occur in names.
            lines = block.split(b"\0") if _is_print0(block) else re.split(rb"\r\n|\r|\n", block)
            found = [(number + at, stripped) for at, line in enumerate(lines, 1) if (stripped := line.strip())]
            number += len(lines) - (1 if not lines[-1] else 0)
            if found:
                yield [(at, decoded(line)) for at, line in found]


def _is_print0(block: bytes) -> bool:
    """Whether names end with zeros, as `find -print0` writes them."""
    return b"\0" in block and b"\n" not in block


def decoded(line: bytes) -> str | bytes:
    """The text, or the bytes themselves if they are no UTF-8."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line


def text_rows(given: str, column: str) -> Iterator[Rows]:
    """The lines of a text list."""
    for lines in line_blocks(given, "text"):
        bad = [
            (number, f"is not UTF-8: {line!r:.80}; save the list as UTF-8")
            for number, line in lines
            if isinstance(line, bytes)
        ]
        good = [(number, line.strip()) for number, line in lines if isinstance(line, str) and line.strip()]
        batch = pa.record_batch({column: pa.array([line for _, line in good], pa.string())})
        yield Rows(batch, [number for number, _ in good], bad)


def without_invalid_text(rows: Rows) -> Rows:
    """The rows whose top-level texts are UTF-8; the others are bad."""
    bad: dict[int, str] = {}
    for name, column in zip(rows.batch.schema.names, rows.batch.columns, strict=True):
        try:
            column.cast(pa.binary()).cast(pa.string())
        except pa.ArrowException:
            for at, value in enumerate(column.cast(pa.binary()).to_pylist()):
                if value is not None and isinstance(decoded(value), bytes):
                    bad[at] = f"has a value in column {name} that is not UTF-8: {value!r:.80}; save the list as UTF-8"
    if not bad:
        return rows
    kept = [at for at in range(rows.batch.num_rows) if at not in bad]
    new = [(rows.numbers[at], reason) for at, reason in bad.items()]
    return Rows(rows.batch.take(pa.array(kept, pa.int64())), [rows.numbers[at] for at in kept], [*rows.bad, *new])


def parquet_names(given: str, _: str, wanted: Sequence[str]) -> list[str]:
    """The names of columns, and those of the wanted ones that are fields of structs."""
    with opened(given, "Parquet") as file, pq.ParquetFile(file) as parquet:
        names = list(parquet.schema_arrow.names)
        nested = [
            name for name in dict.fromkeys(wanted) if name not in names and _has_field(parquet.schema_arrow, name)
        ]
        return [*names, *nested]


def _has_field(schema: pa.Schema, name: str) -> bool:
    """Whether `image.path` names a field of a struct."""
    first, *rest = name.split(".")
    place = schema.get_field_index(first)
    found = schema.field(place).type if place >= 0 else None
    for part in rest:
        place = found.get_field_index(part) if found is not None and pa.types.is_struct(found) else -1
        found = found.field(place).type if found is not None and place >= 0 else None
    return found is not None


def parquet_rows(given: str, _: str, columns: list[str]) -> Iterator[Rows]:
    """The rows, in the types of the file."""
    number = 1
    with opened(given, "Parquet") as file, pq.ParquetFile(file) as parquet:
        top = set(parquet.schema_arrow.names)
        for batch in parquet.iter_batches(BATCH_ROWS, columns=columns):
            arrays = [plain(batch.column(name) if name in top else _field_of(batch, name)) for name in columns]
            flat = pa.record_batch(arrays, names=columns)
            numbers = range(number, number + batch.num_rows)
            number += batch.num_rows
            yield _validated(Rows(flat, numbers))


def _validated(rows: Rows) -> Rows:
    """The format promises UTF-8, but the reader does not check it."""
    try:
        rows.batch.validate(full=True)
        return rows
    except pa.ArrowInvalid:
        texts = [at for at, column in enumerate(rows.batch.columns) if column.type in (pa.string(), pa.large_string())]
        if not texts:
            raise
        checked = without_invalid_text(Rows(rows.batch.select(texts), range(rows.batch.num_rows)))
        kept = rows.batch.take(pa.array(checked.numbers, pa.int64()))
        kept.validate(full=True)
        bad = [(rows.numbers[at], reason) for at, reason in checked.bad]
        return Rows(kept, [rows.numbers[at] for at in checked.numbers], bad)


def _field_of(batch: pa.RecordBatch, name: str) -> pa.Array:
    first, *rest = name.split(".")
    return pc.struct_field(batch.column(first), rest)


def plain(array: pa.Array) -> pa.Array:
    """The values without a dictionary, as no view, and not as an extension's type."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_string_view(array.type):
        return array.cast(pa.string())
    return array.cast(pa.binary()) if pa.types.is_binary_view(array.type) else array


def plain_name(given: str) -> str:
    """The name in lower case, without the extension of its compression."""
    name = given.lower()
    for packed in PACKED_SUFFIXES:
        name = name.removesuffix(packed)
    return name
