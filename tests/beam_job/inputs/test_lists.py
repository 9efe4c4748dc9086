"""Lists of URIs in each format: what is read, in which types, and what is said of a list that cannot be read."""

from __future__ import annotations

import datetime
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from beam_job.inputs.list_formats import BATCH_ROWS
from beam_job.inputs.lists import is_list, read_list
from beam_job.inputs.rows import LISTING_FIELDS, ListedFailure, ListError, check_carried
from beam_job.storage import StorageError

NOON = datetime.datetime(2024, 5, 6, 12, tzinfo=datetime.timezone.utc)
REPORT_CSV = (
    "project,bucket,name,size,generation,crc32c,contentType,timeDeleted\n"
    "7,photos,a b.jpg,1234,1700000000000001,AAAAAA==,image/jpeg,\n"
    "7,photos,dogs/,0,1700000000000002,AAAAAA==,text/plain,\n"
    '7,photos,"dogs/x,y.jpg",,,,image/jpeg,\n'
    "7,photos,a b.jpg,99,1600000000000001,BBBBBB==,image/jpeg,2024-01-01T00:00:00Z\n"
)
# A line as long as the blocks that are read.
FAR = '{"uri": "a", "n": %s, "filler": "' + "x" * (1 << 20) + '"}\n'
REPORT_ROWS = [
    {
        "uri": "gs://photos/a b.jpg",
        "object_version": "1700000000000001",
        "size": 1234,
        "crc32c": "AAAAAA==",
        "tar_offset": None,
    },
    {"uri": "gs://photos/dogs/x,y.jpg", "object_version": None, "size": None, "crc32c": None, "tar_offset": None},
]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], str]:
    """Writes a list and returns its path; a name with .gz is compressed."""

    def write(name: str, content: str | bytes) -> str:
        data = content.encode() if isinstance(content, str) else content
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return str(tmp_path / name)

    return write


def table(given: str, **options: object) -> pa.Table:
    """The list; its relative names, which become absolute, are shown as they are written."""
    read = pa.Table.from_batches(read_list(given, **options))  # type: ignore[arg-type]
    shown = [uri.removeprefix(f"{os.getcwd()}/") for uri in read["uri"].to_pylist()]
    return read.set_column(0, read.schema.field("uri"), pa.array(shown, pa.string()))


def uris(given: str, **options: object) -> list[str]:
    batches = [*read_list(given, **options)]  # type: ignore[arg-type]
    return [uri.removeprefix(f"{os.getcwd()}/") for batch in batches for uri in batch["uri"].to_pylist()]


def listed(given: str, **options: object) -> list[dict[str, object]]:
    """What the list says of each image."""
    names = ["uri", "object_version", "size", "crc32c", "tar_offset"]
    return table(given, **options).select(names).to_pylist()


def bad(given: str, **options: object) -> dict[str, str]:
    """The rows that cannot be used, and why."""
    rows = [row for batch in read_list(given, **options) for row in batch.to_pylist()]  # type: ignore[arg-type]
    assert {row["object_version"] is None for row in rows if row["list_error"]} <= {False}
    return {
        row["uri"].removeprefix(given): ListedFailure.from_json(row["list_error"]).message
        for row in rows
        if row["list_error"]
    }


LISTS = (
    "u.txt",
    "gs://b/U.CSV",
    "u.csv.gz",
    "u.jsonl",
    "u.ndjson.gz",
    "u.parquet",
    "gs://b/f_00:00_manifest.json",
    "u.tsv",
    "u.csv.zst",
    "u.txt.zst",
    "u.json",
)


@pytest.mark.parametrize("given", LISTS)
def test_a_list(given: str) -> None:
    assert is_list(given)


@pytest.mark.parametrize("given", ["u.parquet.gz", "photo.jpg", "photos.gz", "photos.csv/", "txt"])
def test_no_list(given: str) -> None:
    assert not is_list(given)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("l.txt", "gs://b/a b.jpg\n\nü/\u2028x.jpg\n", id="text"),
        pytest.param("l.txt", "\ufeff  gs://b/a b.jpg\t\r\n\r\n \r\nü/\u2028x.jpg", id="text of Windows"),
        pytest.param("l.txt", "gs://b/a b.jpg\rü/\u2028x.jpg\r", id="text of an old Macintosh"),
        pytest.param("l.csv", "n,uri\n1,gs://b/a b.jpg\n2,ü/\u2028x.jpg\n", id="CSV"),
        pytest.param("l.csv", '\ufeffuri,n\r\n"gs://b/a b.jpg","x\r\ny"\r\nü/\u2028x.jpg,\r\n', id="CSV of Windows"),
        pytest.param("l.jsonl", '{"uri": "gs://b/a b.jpg"}\n\n{"n": 1, "uri": "ü/\\u2028x.jpg"}', id="JSON lines"),
        pytest.param(
            "l.ndjson", '\ufeff{"uri": "gs://b/a b.jpg"}\r\n{"uri": "ü/\u2028x.jpg"}\r\n', id="JSON lines of Windows"
        ),
    ],
)
def test_uris_are_kept_as_they_are(name: str, content: str, suffix: str, write) -> None:
    read = table(write(name + suffix, content))
    assert read.schema == pa.schema(LISTING_FIELDS)
    assert read["uri"].to_pylist() == ["gs://b/a b.jpg", "ü/\u2028x.jpg"]
    assert [read[name].null_count for name in ("object_version", "size", "crc32c")] == [2, 2, 2]


@pytest.mark.parametrize(
    "type_",
    [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int8(), pa.string())],
    ids=str,
)
def test_uris_of_parquet_in_any_type_of_text(type_: pa.DataType, tmp_path: Path) -> None:
    column = pa.array(["a.jpg", "b.jpg", "a.jpg"]).cast(type_)
    pq.write_table(pa.table({"image": column, "uri": [1, 2, 3]}), tmp_path / "l.parquet")
    assert uris(str(tmp_path / "l.parquet"), uri_column="image") == ["a.jpg", "b.jpg", "a.jpg"]


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


def test_a_lists_own_versions_and_sizes_are_not_taken(write) -> None:
    read = listed(write("l.csv", "uri,object_version,size,crc32c\na,1,2,x\n"))
    assert read == [{"uri": "a", "object_version": None, "size": None, "crc32c": None, "tar_offset": None}]


@pytest.mark.parametrize("name", ["l.txt", "l.csv", "l.jsonl", "l.parquet"])
def test_batches_are_bounded(name: str, tmp_path: Path, write) -> None:
    names = [f"{number}.jpg" for number in range(BATCH_ROWS + 9)]
    if name == "l.parquet":
        pq.write_table(pa.table({"uri": names}), tmp_path / name)
    else:
        head, line = {"csv": ("uri\n", "%s\n"), "jsonl": ("", '{"uri": "%s"}\n')}.get(name[2:], ("", "%s\n"))
        write(name, head + "".join(line % uri for uri in names))
    batches = list(read_list(str(tmp_path / name)))
    here = f"{os.getcwd()}/"
    assert [uri.removeprefix(here) for batch in batches for uri in batch["uri"].to_pylist()] == names
    assert len(batches) >= 2
    assert max(batch.num_rows for batch in batches) <= BATCH_ROWS == 65_536


def test_a_list_without_a_row(tmp_path: Path, write) -> None:
    pq.write_table(pa.table({"uri": pa.array([], pa.string())}), tmp_path / "l.parquet")
    assert uris(str(tmp_path / "l.parquet")) == []
    assert uris(write("e.csv", "")) == uris(write("e.json", "[]")) == []
    assert uris(write("l.csv", "uri\n")) == uris(write("l.txt", "\n \n")) == uris(write("l.jsonl", "\n")) == []


def test_a_list_in_a_bucket(bucket) -> None:
    bucket.blob("l.csv.gz").upload_from_string(gzip.compress(b"uri\na.jpg\nb.jpg\n"))
    bucket.blob("l.txt").upload_from_string(b"a.jpg\nb.jpg\n")
    root = f"gs://{bucket.name}"
    assert uris(f"{root}/l.csv.gz") == uris(f"{root}/l.txt") == [f"{root}/a.jpg", f"{root}/b.jpg"]
    with pytest.raises(StorageError, match=r"nowhere\.txt"):
        uris(f"{root}/nowhere.txt")


def test_inventory_csv(write) -> None:
    assert listed(write("report.csv", REPORT_CSV)) == REPORT_ROWS
    carried = table(write("report.csv", REPORT_CSV), carry_columns=("contentType", "name"))
    assert carried.select(["contentType", "name"]).to_pylist() == [
        {"contentType": "image/jpeg", "name": "a b.jpg"},
        {"contentType": "image/jpeg", "name": "dogs/x,y.jpg"},
    ]


def test_inventory_csv_with_quoted_empty_values(write) -> None:
    quoted = 'bucket,name,size,generation,timeDeleted\n"photos","x.jpg","","",""\n'
    assert listed(write("report.csv", quoted)) == [
        {"uri": "gs://photos/x.jpg", "object_version": None, "size": None, "crc32c": None, "tar_offset": None}
    ]


def report_parquet(path: Path) -> None:
    report = pyarrow.csv.read_csv(pa.py_buffer(REPORT_CSV.encode()))
    assert report.select(["generation", "timeDeleted"]).schema.types == [pa.int64(), pa.timestamp("s", "UTC")]
    pq.write_table(report, path)


def test_inventory_parquet(tmp_path: Path) -> None:
    report_parquet(tmp_path / "report.parquet")
    assert listed(str(tmp_path / "report.parquet")) == REPORT_ROWS


def test_the_uri_column_goes_before_bucket_and_name(write) -> None:
    assert uris(write("l.csv", "bucket,name\nphotos,a.jpg\n")) == ["gs://photos/a.jpg"]
    assert uris(write("l.csv", "bucket,name,uri\nphotos,a.jpg,b.jpg\n")) == ["b.jpg"]


def test_manifest(tmp_path: Path, write, monkeypatch: pytest.MonkeyPatch) -> None:
    start = "fc95c52f-157a-494f-af4a-d4a53a69ba66_2024-05-06T00:00"
    write(f"{start}_0.csv", REPORT_CSV)
    report_parquet(tmp_path / f"{start}_1.parquet")
    manifest = {
        "report_config": {"csvOptions": {"delimiter": ",", "headerRequired": True}},
        "records_processed": 8,
        "snapshot_time": "2024-05-06T00:00:00Z",
        "shard_count": 2,
        "report_shards_file_names": [f"{start}_0.csv", f"{start}_1.parquet"],
    }
    given = write(f"{start}_manifest.json", json.dumps(manifest))
    assert listed(given) == REPORT_ROWS * 2
    monkeypatch.chdir(tmp_path)
    assert table(f"{start}_manifest.json").num_rows == 4


def test_a_missing_shard_is_an_error(write) -> None:
    given = write("manifest.json", '{"report_shards_file_names": ["shard_0.csv"]}')
    with pytest.raises(StorageError, match=r"shard_0\.csv: No such file"):
        uris(given)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("l.csv", "image,n\na,1\n", "no column uri; --uri_column must .* image, n", id="no uri column"),
        pytest.param("l.csv", "uri,uri\na,b\n", "two columns uri", id="uri column twice"),
        pytest.param("l.jsonl", '{"image": "a"}', "no column uri; --uri_column must .* image", id="no uri in JSON"),
        pytest.param("l.parquet", "no Parquet", "cannot be read as Parquet", id="broken Parquet"),
        pytest.param("l.tsv", "a dog\thttps://h/a\n", "a header before it, such as uri,label", id="no header"),
        pytest.param("r.csv", "bucket,name,size\nb,a,big\n", "as an inventory report: .*'big'", id="size of no number"),
        pytest.param("manifest.json", "{", "cannot be read as a manifest", id="broken manifest"),
        pytest.param("manifest.json", '{"files": []}', "must list CSV or Parquet files, not None", id="other manifest"),
        pytest.param("manifest.json", '{"fileSchema": "Bucket, Key"}', "is an inventory of S3", id="S3's manifest"),
        pytest.param("manifest.json", '{"report_shards_file_names": ["x.orc"]}', r"not \['x.orc'\]", id="odd shards"),
        pytest.param("l.xml", "a", "l.xml is not a list; .* .parquet", id="no list"),
    ],
)
def test_unreadable_lists(name: str, content: str | bytes, message: str, write) -> None:
    given = write(name, content)
    with pytest.raises(ListError, match=message) as caught:
        uris(given)
    assert str(caught.value).startswith(given)
    assert "\n" not in str(caught.value)


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


def test_rows_of_parquet_without_a_uri(tmp_path: Path) -> None:
    given = str(tmp_path / "l.parquet")
    pq.write_table(pa.table({"uri": ["a.jpg"] * BATCH_ROWS + ["b.jpg", None]}), given)
    assert bad(given) == {"#row=65538": f"{given}: row 65538 has no uri"}
    assert len(uris(given)) == BATCH_ROWS + 2
    pq.write_table(pa.table({"uri": [1, 2]}), given)
    with pytest.raises(ListError, match=r"column uri holds int64, not text; .* --uri_column"):
        uris(given)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(gzip.compress(b"a.jpg\n" * 1000)[:-4], "as text: Compressed file ended", id="cut off"),
        pytest.param(b"a.jpg\n", "as text: Not a gzipped file", id="not compressed"),
    ],
)
def test_broken_gzip_files(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "l.txt.gz").write_bytes(content)
    with pytest.raises(ListError, match=message) as caught:
        uris(str(tmp_path / "l.txt.gz"))
    assert isinstance(caught.value.__cause__, (EOFError, OSError))


def test_a_dropped_reader_leaves_nothing_open(tmp_path: Path, write) -> None:
    rows = ["a" * 60] * (BATCH_ROWS + 9)
    lines = "\n".join(rows)
    pq.write_table(pa.table({"uri": rows}), tmp_path / "l.parquet")
    for given in (write("l.csv", f"uri\n{lines}"), write("l.txt", lines)):
        assert next(read_list(given)).num_rows < len(rows)
    assert next(read_list(str(tmp_path / "l.parquet"))).num_rows < len(rows)
