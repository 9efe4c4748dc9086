"""Lists in JSON: one object per line, or an array of objects."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from beam_job.inputs.columns import json_array
from beam_job.inputs.list_formats import (
    BATCH_ROWS,
    BLOCK_BYTES,
    Rows,
    line_blocks,
    opened_text,
    plain_name,
    without_invalid_text,
)
from beam_job.inputs.rows import UnreadableListError

_Object = dict[str, Any]
_TEXT = pa.schema([("text", pa.string())])


def _objects(given: str) -> Iterator[tuple[list[tuple[int, _Object]], list[tuple[int, str]]]]:
    """The objects of JSON lines and of a JSON array, with their numbers, and the rows that are none."""
    if (values := _whole_document(given)) is not None:
        yield from _objects_of_array(given, values)
        return
    for lines in line_blocks(given, "JSON lines"):
        good: list[tuple[int, _Object]] = []
        bad: list[tuple[int, str]] = []
        for number, line in lines:
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                bad.append((number, f"is not JSON ({error}): {line!r:.80}"))
                continue
            if isinstance(value, dict):
                good.append((number, value))
            else:
                bad.append((number, f"is not a JSON object: {line!r:.80}"))
        yield good, bad


def _whole_document(given: str) -> Any:
    """The content of a `.json` file, or of a JSON array over several lines; None for JSON lines of either name."""
    with opened_text(given, "JSON") as file:
        head = file.read(BLOCK_BYTES)
        first, _, rest = head.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")
        is_array = first.startswith(b"[") and not first.rstrip().endswith(b"]")
        if not is_array and (not plain_name(given).endswith(".json") or (_is_object(first) and rest.strip())):
            return None
        return json.loads(head + file.read())


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _objects_of_array(given: str, values: Any) -> Iterator[tuple[list[tuple[int, _Object]], list[tuple[int, str]]]]:
    if isinstance(values, dict) and isinstance(values.get("images"), list):
        values = values["images"]  # annotations of COCO
    if not isinstance(values, list):
        raise UnreadableListError(
            f"{given} is JSON, but neither an array of objects nor has it one named images; write it as JSON lines, as "
            "with jq -c '.photos[]' FILE.json > FILE.jsonl, or if its keys are the names, as text with "
            "jq -r 'keys[]' FILE.json > FILE.txt"
        )
    hint = "; write an array of names as text: jq -r '.[]' FILE.json > FILE.txt"
    for start in range(0, len(values), BATCH_ROWS):
        part = list(enumerate(values[start : start + BATCH_ROWS], start + 1))
        good = [(number, value) for number, value in part if isinstance(value, dict)]
        bad = [(number, value) for number, value in part if not isinstance(value, dict)]
        yield good, [(n, f"is not a JSON object: {value!r:.80}{hint * isinstance(value, str)}") for n, value in bad]


def _value(row: _Object, name: str) -> Any:
    """The value of a member, or of a member of a member: `image.path`."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def json_names(given: str, _: str, wanted: Sequence[str]) -> list[str]:
    """The names of members, until the wanted ones are found."""
    names: dict[str, None] = {}
    for good, _bad in _objects(given):
        for _number, row in good:
            names.update(dict.fromkeys(row))
            names.update(dict.fromkeys(name for name in wanted if "." in name and _value(row, name) is not None))
        if names.keys() >= set(wanted):
            break
    return [*names]


def json_rows(given: str, _: str, columns: list[str]) -> Iterator[Rows]:
    """The objects as rows; the first column holds URIs, the others are carried."""
    uri_column, *others = columns
    types = _json_types(given, others) if others else {}
    for good, bad in _objects(given):
        kept: list[tuple[int, _Object, str | None]] = []
        refused = [*bad]
        for number, row in good:
            value = _value(row, uri_column)
            for uri in value if isinstance(value, list) and value else [value]:  # a row may have several images
                if uri is None or isinstance(uri, str):
                    kept.append((number, row, uri))
                else:
                    refused.append((number, f"has {uri!r:.80} instead of text in column {uri_column}"))
        uris = pa.array([_encoded(uri) for _, _, uri in kept], pa.binary())
        arrays = [json_array([_value(row, name) for _, row, _ in kept], types[name]) for name in others]
        yield _with_text_uris(uris, arrays, columns, [number for number, _, _ in kept], refused)


def _with_text_uris(
    uris: pa.Array, arrays: list[pa.Array], columns: list[str], numbers: list[int], bad: list[tuple[int, str]]
) -> Rows:
    """Rows with these columns; those whose URI is no UTF-8 are bad."""
    checked = without_invalid_text(Rows(pa.record_batch([uris], names=columns[:1]), range(len(uris))))
    kept = pa.array(checked.numbers, pa.int64())
    batch = pa.record_batch(
        [checked.batch.column(0).cast(pa.string()), *(array.take(kept) for array in arrays)], names=columns
    )
    refused = [(numbers[at], reason) for at, reason in checked.bad]
    return Rows(batch, [numbers[at] for at in checked.numbers], [*bad, *refused])


def _encoded(value: str | None) -> bytes | None:
    return None if value is None else value.encode("utf-8", "surrogatepass")  # half a character is no UTF-8


def _json_types(given: str, columns: list[str]) -> dict[str, pa.DataType]:
    """The narrowest types that hold all rows (int64 and float64 become float64); text where there is none."""
    schemas = {column: pa.schema([]) for column in columns}
    for good, _bad in _objects(given):
        for column in columns:
            if schemas[column] is _TEXT:
                continue
            try:
                found = pa.array([_value(row, column) for _, row in good]).type
                schemas[column] = pa.unify_schemas(
                    [schemas[column], pa.schema([(column, found)])], promote_options="permissive"
                )
            except (pa.ArrowException, ValueError, OverflowError):
                schemas[column] = _TEXT
    return {column: schema.field(0).type if len(schema) else pa.null() for column, schema in schemas.items()}
