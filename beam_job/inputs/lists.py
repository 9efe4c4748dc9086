"""Lists of image URIs as Arrow record batches: text, CSV, JSON lines, Parquet, inventory reports of Cloud Storage."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from beam_job.inputs.csv_lists import csv_names, csv_rows
from beam_job.inputs.inventory import REPORT_COLUMNS, is_live_object, report_columns, shards
from beam_job.inputs.json_lists import json_names, json_rows
from beam_job.inputs.list_formats import (
    BATCH_ROWS,
    PACKED_SUFFIXES,
    Rows,
    check_is_no_pointer,
    parquet_names,
    parquet_rows,
    plain,
    plain_name,
    text_rows,
    without_invalid_text,
)
from beam_job.inputs.names import is_image_name
from beam_job.inputs.packed import Place, holds_images, path_column, row_groups
from beam_job.inputs.relative import RelativeNames
from beam_job.inputs.rows import LISTING_FIELDS as LISTING_FIELDS
from beam_job.inputs.rows import RESERVED_COLUMNS as RESERVED_COLUMNS
from beam_job.inputs.rows import (
    ListedFailure,
    ListOptions,
    failed_rows,
    listing_columns,
    row_uri,
)
from beam_job.inputs.rows import ListError as ListError
from beam_job.storage import absolute, scheme_of, storage_for

# The names of a list's columns, searched until the wanted ones are found; and the rows, with some columns.
_Format = tuple[Callable[[str, str, Sequence[str]], list[str]], Callable[[str, str, list[str]], Iterator[Rows]]]
_FORMATS: dict[str, _Format] = {
    ".csv": (csv_names, csv_rows),
    ".tsv": (csv_names, csv_rows),
    ".json": (json_names, json_rows),
    ".jsonl": (json_names, json_rows),
    ".ndjson": (json_names, json_rows),
    ".parquet": (parquet_names, parquet_rows),
}
_COMPRESSIBLE = tuple(suffix for suffix in (".txt", *_FORMATS) if suffix != ".parquet")
_SUFFIXES = (*(suffix + packed for suffix in _COMPRESSIBLE for packed in ("", *PACKED_SUFFIXES)), ".parquet")
_LONG = 2000  # bytes; longer values without a dot are images in base64
_POINTER_BYTES = 1000  # fewer are in a pointer
_NOT_DATA = "not a URI; write the images to files, or decode them into a column of bytes in Parquet"
_TEXT_TYPES = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.null())


def is_list(given: str) -> bool:
    """Whether the name has a list's extension, or is the manifest of an inventory report."""
    return given.lower().endswith(_SUFFIXES)


def is_table(given: str) -> bool:
    """Whether the name is that of a list with columns, as folders of lists hold them."""
    name = plain_name(given)
    return is_list(given) and not name.endswith((".txt", ".json"))


def read_list(
    given: str,
    uri_column: str = "uri",
    carry_columns: Sequence[str] = (),
    options: ListOptions | None = None,
    partitions: Mapping[str, str | None] | None = None,
    taken: set[int] | None = None,
) -> Iterator[pa.RecordBatch]:
    """The rows of the list `given` in its order, in batches of at most `BATCH_ROWS`.

    The schema is `LISTING_FIELDS` followed by the carried columns. A carried column keeps its type in the list; in CSV
    that is text, since a guess would turn `007` into 7. JSON lines are read twice if columns are carried, since a
    column's type is known only at the end of the file; values of several types become text. Rows that cannot be used
    follow the others of their batch, with `list_error` and the URI `LIST#row=N`. Only inventory reports fill `size` and
    `crc32c`; their folder placeholders and noncurrent versions are skipped.

    Args:
      given: a path or URI for which `is_list` holds.
      uri_column: the column that holds the URIs, or the images themselves. A list without it that has `bucket` and
        `name` is an inventory report.
      carry_columns: columns to carry along.
      options: everything about lists; takes the place of the two arguments before.
      partitions: values of columns that the list's folders name; null for a missing value.
      taken: hashes of paths that images inside Parquet are named by already; grows.

    Raises:
      ListError: while reading, for faults of the list.
      StorageError: while reading, if the list or a shard of a report is missing or unreadable.
    """
    options = options or ListOptions(uri_column, tuple(carry_columns))
    return _bounded(_List(given, options, partitions or {}, set() if taken is None else taken).batches())


def _is_data(texts: pa.Array) -> pa.Array:
    """Whether a text is an image itself: a `data:` URI, or base64."""
    is_base64 = pc.and_not(pc.greater(pc.binary_length(texts), _LONG), pc.match_substring(texts, "."))
    return pc.fill_null(pc.or_(pc.starts_with(texts, "data:", ignore_case=True), is_base64), False)


def _bounded(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH_ROWS):
            yield batch.slice(start, BATCH_ROWS)


class _List:
    """One list that is read; the arguments are those of `read_list`."""

    def __init__(self, given: str, options: ListOptions, partitions: Mapping[str, str | None], taken: set[int]) -> None:
        self._given = given
        self._options = options
        self._partitions = partitions
        self._taken = taken
        self._is_trusted = options.trust_local and scheme_of(given) == "file"
        self._version: str | None = None

    def batches(self) -> Iterator[pa.RecordBatch]:
        name = plain_name(self._given)
        suffix = next((suffix for suffix in (".txt", *_FORMATS) if name.endswith(suffix)), "")
        if not is_list(self._given):
            known = ", ".join(dict.fromkeys(plain_name(suffix) for suffix in _SUFFIXES))
            raise ListError(f"{self._given} is not a list; the name of a list ends in one of {known}")
        if name.endswith("manifest.json"):
            for shard in shards(self._given):
                yield from _List(shard, self._options, {}, self._taken).batches()
            return
        stored = storage_for(self._given).stat(self._given)
        self._version = stored.version
        if (stored.size or 0) < _POINTER_BYTES:
            check_is_no_pointer(self._given)
        names = RelativeNames(self._given)
        if suffix == ".txt":
            yield from self._of_text(names)
        else:
            yield from self._of_table(suffix, names)
        names.log_missing()

    def _of_text(self, names: RelativeNames) -> Iterator[pa.RecordBatch]:
        for column in self._options.carry_columns:
            if column not in self._partitions:
                raise ListError(
                    f"{self._given} is a text list, which has no column {column} to carry; use CSV or Parquet"
                )
        for rows in text_rows(self._given, "uri"):
            yield from self._listing(rows, "uri", (), names)

    def _of_table(self, suffix: str, names: RelativeNames) -> Iterator[pa.RecordBatch]:
        names_of, rows_of = _FORMATS[suffix]
        carried = self._options.carry_columns
        delimiter = self._options.delimiter or ("\t" if suffix == ".tsv" else ",")
        column = self._options.uri_column
        fields = self._fields() if suffix == ".parquet" else ()
        found = names_of(self._given, delimiter, (column, *carried, *fields))
        if not found:
            yield from self._without_columns(rows_of(self._given, delimiter, [column]) if suffix != ".csv" else ())
            return
        is_report = column not in found and {"bucket", "name"} <= set(found)
        own = [name for name in carried if name in found or name not in self._partitions]
        keys = [name for name in REPORT_COLUMNS if name in found] if is_report else [column]
        self._check_columns([*keys, *own], found)
        if suffix == ".parquet" and not is_report:
            if self._finds_images(found):
                yield from self._of_images(own, found)
                return
            keys = [self._options.uri_column]
        for rows in rows_of(self._given, delimiter, list(dict.fromkeys([*keys, *own]))):
            yield from self._of_report(rows, own) if is_report else self._listing(rows, keys[0], own, names)

    def _fields(self) -> tuple[str, str]:
        """Where data sets keep an image: in the bytes of a struct, or in the file that its path names."""
        struct = self._options.uri_column.removesuffix(".bytes")
        return f"{struct}.bytes", f"{struct}.path"

    def _finds_images(self, found: Sequence[str]) -> bool:
        """Whether images lie inside the list; `image` stands for `image.bytes`, or without them for `image.path`."""
        in_bytes, in_path = self._fields()
        column = in_bytes if in_bytes in found else self._options.uri_column
        is_packed = holds_images(self._given, column)
        if not is_packed and column == in_bytes and in_path in found:
            column = in_path
        self._options = dataclasses.replace(self._options, uri_column=column)
        return is_packed

    def _without_columns(self, all_rows: Iterator[Rows] | tuple[()]) -> Iterator[pa.RecordBatch]:
        """The rows of JSON lines of which not one is an object."""
        for rows in all_rows:
            yield from self._failed(rows.bad, ())

    def _check_columns(self, columns: Sequence[str], found: Sequence[str]) -> None:
        for column in columns:
            if found.count(column) != 1:
                option = "--uri_column" if column == self._options.uri_column else "--carry_columns"
                number = "two columns" if column in found else "no column"
                near = next((name for name in found if name.strip().lower() == column.strip().lower()), column)
                hint = "" if near == column else f"; did you mean {near!r}?"
                if not hint and any("/" in name or is_image_name(name) for name in found):
                    hint = "; a first line of values needs a header before it, such as uri,label"
                known = ", ".join(f"{name:.80}" for name in found)
                raise ListError(f"{self._given} has {number} {column}; {option} must name one of {known}{hint}")

    def _listing(self, rows: Rows, column: str, own: Sequence[str], names: RelativeNames) -> Iterator[pa.RecordBatch]:
        rows = self._with_text(rows, column)
        uris = names.resolve(rows.batch.column(column))
        yield from self._with_carried(listing_columns(len(uris), uri=uris), rows, own)

    def _of_report(self, rows: Rows, own: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for column in ("bucket", "name"):
            rows = self._with_text(rows, column)
        live = is_live_object(rows.batch)
        for batch in self._with_carried(report_columns(self._given, rows.batch), Rows(rows.batch, rows.numbers), own):
            yield batch.filter(live)
        yield from self._failed(rows.bad, [rows.batch.schema.field(name) for name in own])

    def _of_images(self, own: Sequence[str], found: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Rows of images that lie inside the list; they are named by their path, if no other has it."""
        path = path_column(self._options.uri_column, parquet_names(self._given, "", (*found, self._path_name())))
        first = 1
        for group, row, batch in row_groups(self._given, list(dict.fromkeys([*own, *([path] if path else [])]))):
            count = batch.num_rows
            paths = batch.column(path).cast(pa.string()).to_pylist() if path else [None] * count
            uris = [self._image_name(paths[at], first + at) for at in range(count)]
            given = absolute(self._given)
            places = [Place(given, group, row + at, self._options.uri_column).to_json() for at in range(count)]
            columns = listing_columns(count, uri=pa.array(uris, pa.string()), parquet_place=pa.array(places))
            columns[1] = pa.array([self._version] * count, pa.string())
            yield from self._with_carried(columns, Rows(batch, range(first, first + count)), own)
            first += count

    def _path_name(self) -> str:
        return f"{self._options.uri_column.removesuffix('bytes')}path"

    def _image_name(self, path: str | None, number: int) -> str:
        if path and hash(path) not in self._taken:
            self._taken.add(hash(path))
            return path
        return row_uri(self._given, number)

    def _with_text(self, rows: Rows, column: str) -> Rows:
        """The rows that have text in the column, which becomes a string; the others are bad."""
        array = plain(rows.batch.column(column))
        if array.type not in _TEXT_TYPES:
            fields = ""
            if pa.types.is_struct(array.type):
                fields = f", such as {' or '.join(f'{column}.{field.name}' for field in array.type)}"
            if isinstance(array.type, pa.ListType | pa.LargeListType):
                fields = f", or write one row per image, with DuckDB: SELECT unnest({column}) AS image"
            raise ListError(
                f"{self._given}: column {column} holds {array.type}, not text; name another with --uri_column{fields}"
            )
        place = rows.batch.schema.get_field_index(column)
        checked = without_invalid_text(Rows(pa.record_batch([array], names=[column]), range(rows.batch.num_rows)))
        texts = checked.batch.column(0).cast(pa.string())
        is_empty = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(texts), ""), True)
        kept = pa.array(checked.numbers, pa.int64())
        is_data = _is_data(texts)
        no_uri = pc.or_(is_empty, is_data)
        bad = [(at, f"has no {column}") for at in kept.filter(is_empty).to_pylist()]
        bad += [(at, f"holds data in {column}, {_NOT_DATA}") for at in kept.filter(is_data).to_pylist()]
        good = kept.filter(pc.invert(no_uri))
        batch = rows.batch.take(good).set_column(place, column, texts.filter(pc.invert(no_uri)))
        refused = [(rows.numbers[at], reason) for at, reason in (*checked.bad, *bad)]
        return Rows(batch, [rows.numbers[at] for at in good.to_pylist()], [*rows.bad, *refused])

    def _with_carried(self, columns: list[pa.Array], rows: Rows, own: Sequence[str]) -> Iterator[pa.RecordBatch]:
        count = len(columns[0])
        columns[-1] = pa.array([self._is_trusted] * count, pa.bool_())
        carried = {name: plain(rows.batch.column(name)) for name in own}
        arrays = [*columns, *(self._carried(name, carried, count) for name in self._options.carry_columns)]
        fields = [
            pa.field(name, array.type)
            for name, array in zip(self._options.carry_columns, arrays[len(LISTING_FIELDS) :], strict=True)
        ]
        if count:
            yield pa.record_batch(arrays, schema=pa.schema([*LISTING_FIELDS, *fields]))
        yield from self._failed(rows.bad, fields)

    def _carried(self, name: str, own: Mapping[str, pa.Array], count: int) -> pa.Array:
        if name in own:
            return own[name]
        value = self._partitions[name]
        return pa.nulls(count) if value is None else pa.array([value] * count, pa.string())

    def _failed(self, bad: Sequence[tuple[int, str]], carried: Sequence[pa.Field]) -> Iterator[pa.RecordBatch]:
        """A row for each bad one, named `LIST#row=N`; the carried columns are null."""
        if bad:
            uris = [row_uri(self._given, number) for number, _ in bad]
            reasons = [ListedFailure("BadRow", f"{self._given}: row {number} {reason}") for number, reason in bad]
            batch = failed_rows(uris, reasons, self._version)
            nulls = [pa.nulls(len(bad), field.type) for field in carried]
            yield pa.record_batch([*batch.columns, *nulls], schema=pa.schema([*LISTING_FIELDS, *carried]))
