"""Columns of lists that are carried: their types, and names that cannot be carried."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from beam_job.inputs.rows import LISTING_FIELDS, ListError, check_carried
from tests.list_reading import table, uris

NOON = datetime.datetime(2024, 5, 6, 12, tzinfo=datetime.timezone.utc)


# A line as long as the blocks that are read.
FAR = '{"uri": "a", "n": %s, "filler": "' + "x" * (1 << 20) + '"}\n'


def test_parquet_carries_columns_unchanged(tmp_path: Path) -> None:
    carried = pa.table(
        {
            "id": pa.array([2**60 + 1, None], pa.int64()),
            "small": pa.array([1, 2], pa.uint8()),
            "weight": pa.array([0.1, float("inf")], pa.float32()),
            "label": pa.array(["007", ""], pa.string()),
            "tags": pa.array([["a", None], []], pa.list_(pa.string())),
            "taken": pa.array([NOON, None], pa.timestamp("us", "UTC")),
            "place": pa.array([{"x": 1}, None], pa.struct([("x", pa.int32())])),
        }
    )
    pq.write_table(carried.append_column("uri", [["a", "b"]]), tmp_path / "l.parquet")
    order = ("taken", "place", "id", "small", "weight", "label", "tags")
    read = table(str(tmp_path / "l.parquet"), carry_columns=order)
    assert read.column_names == [*(field.name for field in LISTING_FIELDS), *order]
    assert read.select(order).equals(carried.select(order))


def test_json_lines_carry_the_types_that_hold_all_rows(write) -> None:
    lines = [
        {"uri": "a", "id": 2**60 + 1, "weight": 1, "label": "007", "tags": [], "day": "2024-05-06"},
        {"uri": "b", "id": None, "weight": 0.5, "label": "", "tags": ["x", None], "late": True},
    ]
    # The first block holds the first row alone, so that types are found over blocks.
    given = write("l.jsonl", json.dumps(lines[0]) + "\n" + FAR.replace('"n": %s, ', "") + json.dumps(lines[1]))
    names = ("id", "weight", "label", "tags", "day", "late")
    read = table(given, carry_columns=names)
    types = [pa.int64(), pa.float64(), pa.string(), pa.list_(pa.string()), pa.string(), pa.bool_()]
    assert read.schema.types[len(LISTING_FIELDS) :] == types
    assert read.take([0, 2]).select(names).to_pylist() == [
        {"id": 2**60 + 1, "weight": 1.0, "label": "007", "tags": [], "day": "2024-05-06", "late": None},
        {"id": None, "weight": 0.5, "label": "", "tags": ["x", None], "day": None, "late": True},
    ]


def test_csv_carries_text_as_it_is_written(write) -> None:
    given = write("l.csv", 'id,uri,note,x\n007,a,"two\nlines",1\nNA,b,,2\n1e3,c,"",3\n')
    read = table(given, carry_columns=("note", "id"))
    assert read.schema.types[len(LISTING_FIELDS) :] == [pa.string(), pa.string()]
    assert read["id"].to_pylist() == ["007", "NA", "1e3"]
    assert read["note"].to_pylist() == ["two\nlines", None, ""]


@pytest.mark.parametrize(
    ("name", "content", "carried", "message"),
    [
        pytest.param("l.csv", "uri,n\na,1\n", "label", "no column label; --carry_columns must .* uri, n", id="CSV"),
        pytest.param("l.jsonl", '{"uri": "a"}', "label", "no column label; --carry_columns", id="JSON"),
        pytest.param("l.txt", "a", "label", "text list, which has no column label", id="text"),
    ],
)
def test_columns_that_cannot_be_carried(name: str, content: str, carried: str, message: str, write) -> None:
    with pytest.raises(ListError, match=message):
        uris(write(name, content), carry_columns=(carried,))


@pytest.mark.parametrize("name", ["caption", "size", "run", "error_type", "Width"])
def test_the_outputs_own_columns_are_not_carried(name: str) -> None:
    with pytest.raises(ListError, match=f"{name} is a column of the output; .* --carry_columns=list_{name}={name}$"):
        check_carried(("label", name))
    check_carried(("label", f"list_{name}={name}"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param(["label", "label"], "label is given twice", id="twice"),
        pytest.param(["label", "label=n"], "label is given twice", id="a new name twice"),
        pytest.param(["size=n"], "size is a column of the output; .* --carry_columns=list_n=n", id="new name"),
        pytest.param(["label="], "'label=' must be COLUMN, or NAME=COLUMN", id="no column"),
        pytest.param(["=label"], "'=label' must be COLUMN, or NAME=COLUMN", id="no name"),
    ],
)
def test_names_of_carried_columns(given: list[str], message: str) -> None:
    with pytest.raises(ListError, match=message):
        check_carried(given)
