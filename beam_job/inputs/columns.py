"""Converts columns of several tables to one type, and values to JSON text for formats with fewer types than Arrow."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa


def concat_tables(tables: Sequence[pa.Table]) -> pa.Table:
    """The rows of all tables, in their `common_schema`."""
    schema = common_schema([table.schema for table in tables])
    return pa.concat_tables([fitted(table, schema) for table in tables])


def common_schema(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """The columns of all `schemas`; a column whose types do not go together becomes text."""
    fields: dict[str, pa.Field] = {}
    for field in (field.with_nullable(True) for schema in schemas for field in schema):
        known = fields.setdefault(field.name, field)
        try:
            both = [pa.schema([known]), pa.schema([field])]
            fields[field.name] = pa.unify_schemas(both, promote_options="permissive").field(0)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            fields[field.name] = pa.field(field.name, pa.string())
    return pa.schema(list(fields.values()))


def fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table in `schema`: columns that it lacks are null, values that become text are written as JSON has them."""
    if table.schema.equals(schema):
        return table
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        column = table[field.name]
        try:
            columns.append(column.cast(field.type, safe=field.type == pa.string()))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            columns.append(as_json_text(column))
    return pa.table(columns, schema=schema)


def json_array(values: Sequence[Any], type_: pa.DataType | None = None) -> pa.Array:
    """Values of JSON as a column; as text if that is wanted, or if they have no type in common."""
    if type_ is None:
        try:
            return pa.array(values)
        except (pa.ArrowException, ValueError, OverflowError):
            type_ = pa.string()
    if type_ == pa.string():
        texts = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
        values = [text and text.encode("utf-8", "backslashreplace").decode() for text in texts]
    return pa.array(values, type_)


def to_json(value: Any) -> str:
    """A row or a value as JSON: times as ISO 8601, bytes as base64, other types that JSON lacks as text."""
    return json.dumps(value, ensure_ascii=False, default=_plain)


def as_json_text(column: pa.ChunkedArray) -> pa.Array:
    """Each value as JSON text; null stays null."""
    return pa.array([None if value is None else to_json(value) for value in column.to_pylist()], pa.string())


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return str(value.isoformat() if hasattr(value, "isoformat") else value)
