"""Lists of image URIs as Arrow record batches: text, CSV, JSON lines, Parquet, inventory reports of Cloud Storage."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from beam_job.storage import local_path, storage_for

LISTING_FIELDS = (
    pa.field("uri", pa.string()),
    pa.field("object_version", pa.string()),
    pa.field("size", pa.int64()),
    pa.field("crc32c", pa.string()),
    pa.field("tar_offset", pa.int64()),
)
# Columns of the output; carried columns must have other names.
_CAPTIONS = (
    *("caption", "score", "low_confidence", "captions", "scores"),
    *("width", "height", "model_version", "captioned_at"),
)
_FAILURES = ("stage", "error_type", "error_message", "transient", "failed_at", "retry_when")
RESERVED_COLUMNS = frozenset((*(field.name for field in LISTING_FIELDS), *_CAPTIONS, *_FAILURES, "run", "correction"))
BATCH_ROWS = 65_536
_BLOCK_BYTES = 1 << 20
_TEXT_TYPES = (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.null())
_REPORT_COLUMNS = ("bucket", "name", "generation", "size", "crc32c", "timeDeleted")
_COMPRESSIBLE = (".txt", ".csv", ".jsonl", ".ndjson")
_LIST_SUFFIXES = (*_COMPRESSIBLE, *(f"{suffix}.gz" for suffix in _COMPRESSIBLE), ".parquet", "manifest.json")
_UNREADABLE = (pa.ArrowException, ValueError, OSError, EOFError, OverflowError, RecursionError, zlib.error)


class ListError(ValueError):
    """A list, or an option about it, cannot be used; the message names the list, the value and what to do."""


def is_list(given: str) -> bool:
    """Whether the name has a list's extension, or is the manifest of an inventory report."""
    return given.lower().endswith(_LIST_SUFFIXES)


def read_list(given: str, uri_column: str = "uri", carry_columns: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
    """The rows of the list `given` in its order, in batches of at most `BATCH_ROWS`.

    The schema is `LISTING_FIELDS` followed by the carried columns. A carried column keeps its type in the list; in CSV
    that is text, since a guess would turn `007` into 7. JSON lines are read twice if columns are carried, since a
    column's type is known only at the end of the file. Only inventory reports fill `object_version`, `size` and
    `crc32c`; their folder placeholders and noncurrent versions are skipped.

    Args:
      given: a path or URI for which `is_list` holds.
      uri_column: the column that holds the URIs. A list without it that has `bucket` and `name` is an inventory
        report.
      carry_columns: columns to carry along.

    Raises:
      ListError: at once for the name of a carried column; while reading, for faults of the list.
      StorageError: while reading, if the list or a shard of a report is missing or unreadable.
    """
    check_carried(carry_columns)
    return _bounded(_batches(given, uri_column, tuple(carry_columns)))


def check_carried(names: Sequence[str]) -> None:
    """Checks that columns of these names may be carried.

    Raises:
      ListError: a name is a column of the output, or is given twice.
    """
    for name in names:
        if name.lower() in RESERVED_COLUMNS:  # BigQuery and DuckDB ignore case
            raise ListError(f"--carry_columns: {name} is a column of the output; carry it under another name")
        if names.count(name) > 1:
            raise ListError(f"--carry_columns: {name} is given twice; give it once")


def _bounded(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH_ROWS):
            yield batch.slice(start, BATCH_ROWS)


def _batches(given: str, uri_column: str, carried: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
    suffix = next((suffix for suffix in _LIST_SUFFIXES if given.lower().endswith(suffix)), "").removesuffix(".gz")
    if suffix == ".txt":
        yield from _text_batches(given, carried)
    elif suffix == "manifest.json":
        for shard in _shards(given):
            yield from _batches(shard, uri_column, carried)
    elif suffix in _FORMATS:
        yield from _table_batches(given, suffix, uri_column, carried)
    else:
        raise ListError(f"{given} is not a list; the name of a list ends in one of {', '.join(_LIST_SUFFIXES)}")


@contextlib.contextmanager
def _unreadable(given: str, label: str) -> Iterator[None]:
    try:
        yield
    except ListError:
        raise
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise ListError(f"{given} cannot be read as {label}: {reason}; fix the file or its extension") from error


@contextlib.contextmanager
def _opened(given: str, label: str) -> Iterator[BinaryIO]:
    storage = storage_for(given)
    storage.stat(given)  # a missing list is an error of the storage, not of the list's format
    with _unreadable(given, label), storage.open(given) as file:
        if given.lower().endswith(".gz"):
            with gzip.GzipFile(fileobj=file) as plain:
                yield plain  # type: ignore[misc]  # typeshed has GzipFile beside BinaryIO
        else:
            yield file


def _line_blocks(given: str, label: str) -> Iterator[list[str]]:
    """The lines that are not blank, stripped, about 1 MiB at a time."""
    offset = 0
    with _opened(given, label) as file:
        while block := file.read(_BLOCK_BYTES) + file.readline():
            try:
                text = block.decode("utf-8")
            except UnicodeDecodeError as error:
                place = f"{error.reason} at byte {offset + error.start}"
                raise ListError(f"{given} is not a text file in UTF-8 ({place}); save it as UTF-8") from error
            text = text if offset else text.removeprefix("\ufeff")
            offset += len(block)
            # Not splitlines, which also splits at characters that may occur in names.
            if lines := [line for raw in re.split(r"[\r\n]+", text) if (line := raw.strip())]:
                yield lines


def _text_batches(given: str, carried: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
    if carried:
        raise ListError(f"{given} is a text list, which has no column {carried[0]} to carry; use CSV or Parquet")
    for lines in _line_blocks(given, "text"):
        yield pa.record_batch(_of_uris(pa.array(lines, pa.string())), schema=pa.schema(LISTING_FIELDS))


def _csv_reader(file: BinaryIO, columns: Sequence[str] = ()) -> Any:
    return pyarrow.csv.open_csv(
        file,
        # One thread: a reader that is dropped early leaves no thread behind, and errors name their row.
        pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False),
        pyarrow.csv.ParseOptions(newlines_in_values=True),
        pyarrow.csv.ConvertOptions(
            include_columns=list(columns),
            column_types=dict.fromkeys(columns, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


def _csv_names(given: str, wanted: Sequence[str]) -> list[str]:
    with _opened(given, "CSV") as file, _csv_reader(file) as reader:
        return list(reader.schema.names)


def _csv_batches(given: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with _opened(given, "CSV") as file, _csv_reader(file, columns) as reader:
        yield from reader


def _parquet_names(given: str, wanted: Sequence[str]) -> list[str]:
    with _opened(given, "Parquet") as file, pq.ParquetFile(file) as parquet:
        return list(parquet.schema_arrow.names)


def _parquet_batches(given: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with _opened(given, "Parquet") as file, pq.ParquetFile(file) as parquet:
        for batch in parquet.iter_batches(BATCH_ROWS, columns=columns):
            batch.validate(full=True)  # the format promises UTF-8, but the reader does not check it
            yield batch


def _json_rows(given: str) -> Iterator[list[dict[str, Any]]]:
    row = 0
    for lines in _line_blocks(given, "JSON lines"):
        values = []
        for row, line in enumerate(lines, row + 1):  # noqa: B020  # continues where the last block ended
            try:
                values.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise ListError(f"{given}: row {row} is not JSON: {error}; write one object a line") from error
            if not isinstance(values[-1], dict):
                raise ListError(f"{given}: row {row} is not a JSON object but {line[:80]}; write one object a line")
        yield values


def _json_names(given: str, wanted: Sequence[str]) -> list[str]:
    names: dict[str, None] = {}
    for rows in _json_rows(given):
        names.update(dict.fromkeys(name for row in rows for name in row))
        if names.keys() >= set(wanted):
            break
    return [*names]


def _json_schema(given: str, columns: list[str]) -> pa.Schema:
    """The narrowest types that hold all rows: int64 and float64 become float64, null fits every type."""
    schema = pa.schema([])
    for rows in _json_rows(given):
        with _unreadable(given, "JSON lines with a type for each column"):
            types = [(column, pa.array([row.get(column) for row in rows]).type) for column in columns]
            schema = pa.unify_schemas([schema, pa.schema(types)], promote_options="permissive")
    return schema


def _json_batches(given: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    schema = _json_schema(given, columns) if len(columns) > 1 else pa.schema([(columns[0], pa.string())])
    for rows in _json_rows(given):
        with _unreadable(given, f"JSON lines with columns of {', '.join(str(field.type) for field in schema)}"):
            arrays = [pa.array([row.get(field.name) for row in rows], field.type) for field in schema]
        yield pa.record_batch(arrays, schema=schema)


# The names of a list's columns, searched until the wanted ones are found; and the batches of some columns.
_Format = tuple[Callable[[str, Sequence[str]], list[str]], Callable[[str, list[str]], Iterator[pa.RecordBatch]]]
_FORMATS: dict[str, _Format] = {
    ".csv": (_csv_names, _csv_batches),
    ".jsonl": (_json_names, _json_batches),
    ".ndjson": (_json_names, _json_batches),
    ".parquet": (_parquet_names, _parquet_batches),
}


def _table_batches(given: str, suffix: str, uri_column: str, carried: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
    names_of, batches_of = _FORMATS[suffix]
    if not (names := names_of(given, (uri_column, *carried))):
        return  # an empty file of JSON lines
    is_report = uri_column not in names and {"bucket", "name"} <= set(names)
    keys = [name for name in _REPORT_COLUMNS if name in names] if is_report else [uri_column]
    columns = list(dict.fromkeys([*keys, *carried]))
    for column in columns:
        if names.count(column) != 1:
            option = "--uri_column" if column == uri_column else "--carry_columns"
            found = "two columns" if column in names else "no column"
            raise ListError(f"{given} has {found} {column}; {option} must name one of {', '.join(names)}")
    row = 1
    for batch in batches_of(given, columns):
        arrays = _of_report(given, batch, row) if is_report else _of_uris(_texts(given, batch, uri_column, row))
        fields = [pa.field(name, batch.schema.field(name).type) for name in carried]
        arrays += [batch.column(name) for name in carried]
        listing = pa.record_batch(arrays, schema=pa.schema([*LISTING_FIELDS, *fields]))
        yield listing.filter(_is_live_object(batch)) if is_report else listing
        row += batch.num_rows


def _of_uris(uris: pa.Array) -> list[pa.Array]:
    return [uris, *(pa.nulls(len(uris), field.type) for field in LISTING_FIELDS[1:])]


def _texts(given: str, batch: pa.RecordBatch, column: str, row: int) -> pa.Array:
    """The column, which must have text in every row; the batch's first row is number `row` of the list."""
    array = batch.column(column)
    array = array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
    if array.type not in _TEXT_TYPES:
        raise ListError(f"{given}: column {column} holds {array.type}, not text; name another with --uri_column")
    with _unreadable(given, f"text in column {column}"):
        array = array.cast(pa.string())
    empty = pc.index(pc.fill_null(pc.equal(array, ""), True), True).as_py()
    if empty >= 0:
        raise ListError(f"{given}: row {row + empty} has no {column}; fill in column {column}, or remove the row")
    return array


def _of_report(given: str, batch: pa.RecordBatch, row: int) -> list[pa.Array]:
    bucket, name = (_texts(given, batch, column, row) for column in ("bucket", "name"))
    with _unreadable(given, "an inventory report"):
        columns = zip(("generation", "size", "crc32c"), LISTING_FIELDS[1:4], strict=True)
        known = [_optional(batch, column).cast(field.type) for column, field in columns]
    no_offset = pa.nulls(batch.num_rows, pa.int64())
    return [pc.binary_join_element_wise("gs:/", bucket, name, "/"), *known, no_offset]


def _optional(batch: pa.RecordBatch, column: str) -> pa.Array:
    if column not in batch.schema.names:
        return pa.nulls(batch.num_rows)
    array = batch.column(column)
    return pc.if_else(pc.equal(array, ""), None, array) if array.type == pa.string() else array


def _is_live_object(batch: pa.RecordBatch) -> pa.Array:
    """False for placeholders of folders and for noncurrent versions."""
    is_folder = pc.ends_with(batch.column("name").cast(pa.string()), "/")
    return pc.and_not(pc.is_null(_optional(batch, "timeDeleted")), is_folder)


def _shards(given: str) -> Iterator[str]:
    """The files of an inventory report, which lie beside its manifest."""
    with _opened(given, "a manifest") as file:
        manifest = json.loads(file.read())
    names = manifest.get("report_shards_file_names") if isinstance(manifest, dict) else None
    if not isinstance(names, list) or not all(str(name).lower().endswith((".csv", ".parquet")) for name in names):
        raise ListError(f"{given}: report_shards_file_names must list CSV or Parquet files, not {names!r}")
    # As a path, since in file:// an escaped slash in a shard's name would lead to another folder.
    folder, slash, _ = local_path(given).rpartition("/")
    for name in names:
        yield folder + slash + str(name).rpartition("/")[2]
