"""The rows that inputs are read into: their columns, and how a row that has already failed is marked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from beam_job.inputs.carried import carried_names, carried_sources
from beam_job.storage import CONTENT, RETRY_WHEN, absolute

LISTING_FIELDS = (
    pa.field("uri", pa.string()),
    pa.field("object_version", pa.string()),
    pa.field("size", pa.int64()),
    pa.field("crc32c", pa.string()),
    pa.field("tar_offset", pa.int64()),
    pa.field("list_error", pa.string()),
    pa.field("parquet_place", pa.string()),
    pa.field("is_trusted", pa.bool_()),
)
# Columns of the output; carried columns must have other names.
_CAPTIONS = (
    *("caption", "score", "low_confidence", "captions", "scores"),
    *("width", "height", "model_version", "captioned_at"),
)
_FAILURES = ("stage", "error_type", "error_message", "transient", "failed_at", "retry_when")
RESERVED_COLUMNS = frozenset((*(field.name for field in LISTING_FIELDS), *_CAPTIONS, *_FAILURES, "run", "correction"))


class ListError(ValueError):
    """A list, or an option about it, cannot be used; the message names the list, the value and what to do."""


class UnreadableListError(ListError):
    """The content of a list cannot be read; of several lists, the others can."""


@dataclass(frozen=True)
class ListOptions:
    """How lists are read.

    Attributes:
      uri_column: the column that holds the URIs; `image.path` is the field `path` of the struct `image`.
      carry_columns: columns to carry along, as `COLUMN` or `NAME=COLUMN`.
      delimiter: of CSV; None for a comma, or a tab in `.tsv`.
      trust_local: whether lists on this machine's disk may name anything but private addresses.
    """

    uri_column: str = "uri"
    carry_columns: tuple[str, ...] = ()
    delimiter: str | None = None
    trust_local: bool = True


class ListedFailure(NamedTuple):
    """The reason why a listed row cannot be captioned, known before anything is fetched.

    Attributes:
      error_type: as in `failures/`.
      message: the `error_message` in `failures/`.
      retry_when: one of `storage.RETRY_WHEN`.
    """

    error_type: str
    message: str
    retry_when: str = CONTENT

    def to_json(self) -> str:
        """The value of `list_error`."""
        return json.dumps(self)

    @classmethod
    def from_json(cls, text: str) -> ListedFailure:
        error_type, message, retry_when = json.loads(text)
        return cls(error_type, message, retry_when if retry_when in RETRY_WHEN else CONTENT)


def check_carried(given: Sequence[str]) -> None:
    """Checks that columns may be carried under their names.

    Args:
      given: values of `--carry_columns`.

    Raises:
      ListError: a name is empty, is a column of the output, or is given twice.
    """
    names = carried_names(given)
    for name, source, value in zip(names, carried_sources(given), given, strict=True):
        if not name or value.endswith("="):
            raise ListError(f"--carry_columns: {value!r} must be COLUMN, or NAME=COLUMN for another name in the output")
        if name.lower() in RESERVED_COLUMNS:  # BigQuery and DuckDB ignore case
            raise ListError(
                f"--carry_columns: {name} is a column of the output; carry it under another name, as in "
                f"--carry_columns=list_{source}={source}"
            )
        if names.count(name) > 1:
            raise ListError(f"--carry_columns: {name} is given twice; give it once")


def row_uri(given: str, number: int) -> str:
    """The URI of row `number` of a list, for a row that has no other."""
    return f"{absolute(given)}#row={number}"


def listing_columns(rows: int, **columns: pa.Array) -> list[pa.Array]:
    """Arrays for all of `LISTING_FIELDS`, null where none is given."""
    return [columns.get(field.name, pa.nulls(rows, field.type)) for field in LISTING_FIELDS]


def failed_rows(uris: Sequence[str], failures: Sequence[ListedFailure], version: str | None) -> pa.RecordBatch:
    """Rows, with `LISTING_FIELDS`, of inputs that have failed already."""
    columns = listing_columns(
        len(uris),
        uri=pa.array(uris, pa.string()),
        object_version=pa.array([version] * len(uris), pa.string()),
        list_error=pa.array([failure.to_json() for failure in failures], pa.string()),
    )
    return pa.record_batch(columns, schema=pa.schema(LISTING_FIELDS))
