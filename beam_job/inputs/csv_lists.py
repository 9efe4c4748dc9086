"""Lists as CSV: records of text, in a delimiter of the user's."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.csv

from beam_job.inputs.list_formats import BLOCK_BYTES, Rows, decoded, opened_text, without_invalid_text
from beam_job.inputs.marked_bytes import MarkedBytes, may_have_marks, without_marks
from beam_job.inputs.rows import ListError

_DELIMITERS = {";": "';'", "\t": "'\\t'", "|": "'|'", ",": "','"}


def _csv_reader(
    file: Any, delimiter: str, columns: Sequence[str] = (), on_bad: Callable[[Any], str] | None = None
) -> Any:
    return pyarrow.csv.open_csv(
        io.BufferedReader(MarkedBytes(file, delimiter, BLOCK_BYTES), BLOCK_BYTES),
        # One thread: a reader that is dropped early leaves no thread behind, and errors name their row.
        pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
        pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=on_bad),
        pyarrow.csv.ConvertOptions(
            include_columns=list(columns),
            column_types=dict.fromkeys(columns, pa.binary()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


def csv_names(given: str, delimiter: str, wanted: Sequence[str]) -> list[str]:
    """The names in the header; none if the file is empty."""
    with opened_text(given, "CSV") as file:
        if not file.read(BLOCK_BYTES).removeprefix(b"\xef\xbb\xbf").strip():
            return []
    with opened_text(given, "CSV") as file, _csv_reader(file, delimiter, on_bad=lambda _: "skip") as reader:
        names = [_as_read(name) for name in reader.schema.names]
    if wanted and wanted[0] not in names and len(names) == 1:
        for other, shown in _DELIMITERS.items():
            if wanted[0] in (name.strip('" ') for name in names[0].split(other)):
                raise ListError(f"{given} has the column {wanted[0]} with another delimiter; add --delimiter={shown}")
    return names


def csv_rows(given: str, delimiter: str, columns: list[str]) -> Iterator[Rows]:
    """The records, as text; those with too many or too few values are bad."""
    bad: dict[int, str] = {}

    def on_bad(row: Any) -> str:
        number = (row.number or 0) - 1  # Arrow counts the header
        text = decoded(without_marks(row.text.encode()))
        bad[number] = f"has {row.actual_columns} values instead of {row.expected_columns}: {text!r:.80}"
        return "skip"

    number = 0
    with opened_text(given, "CSV") as file, _csv_reader(file, delimiter, columns, on_bad) as reader:
        named: set[int] = set()
        for batch in reader:
            numbers: list[int] = []
            while len(numbers) < batch.num_rows:
                number += 1
                if number not in bad:
                    numbers.append(number)
            new = [(at, reason) for at, reason in bad.items() if at not in named]
            named.update(bad)
            yield _as_text(Rows(batch, numbers, new))
        if rest := [(at, reason) for at, reason in bad.items() if at not in named]:
            yield Rows(pa.record_batch({name: pa.array([], pa.string()) for name in columns}), [], rest)


def _as_text(rows: Rows) -> Rows:
    """The same rows with text instead of bytes; those that are no UTF-8 are bad."""
    arrays = [_unmarked(column) for column in rows.batch.columns]
    rows = without_invalid_text(dataclasses.replace(rows, batch=pa.record_batch(arrays, names=rows.batch.schema.names)))
    arrays = [column.cast(pa.string()) for column in rows.batch.columns]
    return Rows(pa.record_batch(arrays, names=rows.batch.schema.names), rows.numbers, rows.bad)


def _unmarked(column: pa.Array) -> pa.Array:
    """The bytes of the file instead of those that `MarkedBytes` has put in their place."""
    data = column.buffers()[2]
    if data is None or not may_have_marks(data):
        return column
    return pa.array([value and without_marks(value) for value in column.to_pylist()], pa.binary())


def _as_read(text: str) -> str:
    """A text of the file in which the bytes that are not UTF-8 are escaped."""
    return without_marks(text.encode()).decode("utf-8", "backslashreplace")
