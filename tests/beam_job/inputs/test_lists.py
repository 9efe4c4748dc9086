"""Lists of URIs in each format: what is read, and what is said of a list that cannot be read."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from beam_job.inputs.list_formats import BATCH_ROWS
from beam_job.inputs.lists import is_list, read_list
from beam_job.inputs.rows import LISTING_FIELDS, ListedFailure, ListError
from beam_job.storage import StorageError
from tests.list_reading import listed, table, uris


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
