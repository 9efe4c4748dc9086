"""Writes a Parquet file, a schema and a script that loads them into BigQuery."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from beam_job.inputs.columns import as_json_text

NAME = "captions.parquet"
_LOAD = """\
#!/bin/sh
# usage: ./load.sh DATASET.TABLE
# Appends the rows to the table, creating it if needed; ./load.sh --replace DATASET.TABLE replaces its rows.
set -eu
here=$(dirname "$0")
exec bq load --source_format=PARQUET --parquet_enable_list_inference=true "$@" "$here/captions.parquet" \
"$here/schema.json"
"""
# Column name prefixes that BigQuery reserves.
_RESERVED = ("_table_", "_file_", "_partition", "_row_timestamp", "__root__", "_colidentifier")


def write_bigquery(tables: Iterable[pa.Table], folder: str) -> int:
    """Writes `captions.parquet`, `schema.json` and `load.sh`; returns the rows.

    Names of carried columns are changed to names that BigQuery accepts; values of types that it lacks become JSON text.
    """
    rows = 0
    writer = None
    try:
        for table in tables:
            loadable = pa.table([_loadable(column) for column in table.columns], column_names(table.column_names))
            writer = writer or pq.ParquetWriter(os.path.join(folder, NAME), loadable.schema, compression="zstd")
            writer.write_table(loadable)
            rows += table.num_rows
    finally:
        if writer is not None:
            writer.close()
    if writer is not None:
        with open(os.path.join(folder, "schema.json"), "x", encoding="utf-8") as file:
            json.dump([_field(field) for field in writer.schema], file, indent=2)
            file.write("\n")
    with open(os.path.join(folder, "load.sh"), "x", encoding="utf-8") as file:
        file.write(_LOAD)
    os.chmod(os.path.join(folder, "load.sh"), 0o755)
    return rows


def column_names(names: Sequence[str]) -> list[str]:
    """Column names of letters, digits and `_` that do not begin with a digit and are distinct whatever their case."""
    taken: list[str] = []
    for name in names:
        clean = re.sub(r"[^A-Za-z0-9_]", "_", name)[:290] or "_"
        if clean[0].isdigit() or clean.lower().startswith(_RESERVED):
            clean = f"c_{clean}"
        candidate, number = clean, 2
        while candidate.lower() in (other.lower() for other in taken):
            candidate, number = f"{clean}_{number}", number + 1
        taken.append(candidate)
    return taken


def _field(field: pa.Field) -> dict[str, str]:
    repeated = pa.types.is_list(field.type)
    kind = _type(field.type.value_type if repeated else field.type)
    return {"name": field.name, "type": kind or "STRING", "mode": "REPEATED" if repeated else "NULLABLE"}


def _loadable(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """Converts a column to a type that BigQuery loads from Parquet."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _loadable(column.cast(kind.value_type))
    if pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp("us", kind.tz), safe=False)
    if pa.types.is_uint64(kind):
        return column.cast(pa.decimal128(20, 0))
    if any(is_text(kind) for is_text in (pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)):
        return column.cast(pa.string())
    known = _type(kind.value_type if pa.types.is_list(kind) else kind)
    return column if known else as_json_text(column)


def _type(kind: pa.DataType) -> str | None:
    """BigQuery's name of a type; None if it has no such type."""
    if pa.types.is_timestamp(kind):
        return "TIMESTAMP" if kind.tz else "DATETIME"
    if pa.types.is_decimal128(kind):
        return "NUMERIC" if kind.scale <= 9 and kind.precision - kind.scale <= 29 else None
    for is_kind, name in (
        (pa.types.is_string, "STRING"),
        (pa.types.is_boolean, "BOOL"),
        (pa.types.is_integer, "INT64"),
        (pa.types.is_float32, "FLOAT64"),
        (pa.types.is_float64, "FLOAT64"),
        (pa.types.is_date32, "DATE"),
        (pa.types.is_binary, "BYTES"),
    ):
        if is_kind(kind):
            return name
    return None
