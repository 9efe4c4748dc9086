"""Values and columns as JSON text, for formats with fewer types than Arrow."""

from __future__ import annotations

import base64
import json
from typing import Any

import pyarrow as pa


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
