"""Rows of lists that people have: bad ones beside good ones, other delimiters, structs, relative names."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_job.inputs import csv_lists
from beam_job.inputs.lists import read_list
from beam_job.inputs.rows import ListedFailure, ListError, ListOptions


def rows(given: object, **options: object) -> list[dict]:
    batches = read_list(str(given), options=ListOptions(**options))  # type: ignore[arg-type]
    return [row for batch in batches for row in batch.to_pylist()]


def good(given: object, **options: object) -> list[str]:
    return [row["uri"] for row in rows(given, **options) if not row["list_error"]]


def bad(given: object, **options: object) -> dict[str, str]:
    """The rows that cannot be used, and why."""
    found = [row for row in rows(given, **options) if row["list_error"]]
    assert all(row["object_version"] for row in found)
    reasons = {row["uri"]: ListedFailure.from_json(row["list_error"]) for row in found}
    assert {reason.error_type for reason in reasons.values()} <= {"BadRow"}
    return {uri.removeprefix(str(given)): reason.message for uri, reason in reasons.items()}


@pytest.mark.parametrize(
    ("name", "content", "number", "reason"),
    [
        pytest.param("l.jsonl", '{"uri": "/a"}\n{"uri": null}\n{"uri": "/b"}\n', 2, "has no uri", id="null in JSON"),
        pytest.param("l.jsonl", '{"uri": "/a"}\n{"n": 1}\n{"uri": "/b"}\n', 2, "has no uri", id="no uri in JSON"),
        pytest.param(
            "l.jsonl", '{"uri": "/a"}\n{"uri": 7}\n{"uri": "/b"}', 2, "has 7 instead of text", id="number in JSON"
        ),
        pytest.param("l.jsonl", '{"uri": "/a"}\n{"uri": "/b"}\n{"uri": "/c', 3, "is not JSON", id="cut JSON line"),
        pytest.param("l.jsonl", '{"uri": "/a"}\n\n["/c"]\n{"uri": "/b"}', 3, "not a JSON object", id="array in JSON"),
        pytest.param("l.jsonl", '{"uri": "/a"}\n{"uri": "\\ud800"}\n{"uri": "/b"}', 2, "not UTF-8", id="surrogate"),
        pytest.param("l.json", '[{"uri": "/a"}, 3, {"uri": "/b"}]', 2, "not a JSON object", id="number in an array"),
        pytest.param("l.csv", "uri,n\n/a,1\n/x,2,3\n/b,4\n", 2, "3 values instead of 2", id="CSV with a comma more"),
        pytest.param("l.csv", "uri,n\n/a,1\n/b,4\n/x\n", 3, "1 values instead of 2", id="CSV with a comma less"),
        pytest.param("l.csv", "uri,n\n/a,1\n,2\n/b,1\n", 2, "has no uri", id="null in CSV"),
        pytest.param("l.csv", 'uri,n\n/a,1\n" ",2\n/b,1\n', 2, "has no uri", id="blank in CSV"),
        pytest.param("l.csv", b"uri,n\n/a,1\n/caf\xe9,2\n/b,1\n", 2, "not UTF-8", id="CSV with Latin-1"),
        pytest.param(
            "l.csv", b"uri,n\n/a,1\n/caf\xe9,2,3\n/b,1\n", 2, "b'/caf\\xe9,2,3'", id="Latin-1 and a comma more"
        ),
        pytest.param("l.csv", b"uri,caf\xe9\n/a,1\n/b\n/b,2\n", 2, "1 values instead of 2", id="Latin-1 in the header"),
        pytest.param("l.txt", b"/a\n\n/caf\xe9.jpg\n/b\n", 3, "not UTF-8", id="text with Latin-1"),
        pytest.param("l.tsv", "n\turi\n1\t/a\n2\n1\t/b\n", 2, "1 values instead of 2", id="TSV with a tab less"),
    ],
)
@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
def test_one_bad_row_costs_one_row(
    name: str, content: str | bytes, number: int, reason: str, packed: str, tmp_path: Path
) -> None:
    data = content.encode() if isinstance(content, str) else content
    given = tmp_path / (name + packed)
    packers = {"": bytes, ".gz": gzip.compress, ".zst": lambda data: pa.compress(data, "zstd", asbytes=True)}
    given.write_bytes(packers[packed](data))
    assert good(given) == ["/a", "/b"]
    [(uri, message)] = bad(given).items()
    assert uri == f"#row={number}"
    assert message.startswith(f"{given}: row {number} ")
    assert reason in message


def test_bytes_that_are_not_utf8_survive_the_edges_of_blocks(tmp_path: Path) -> None:
    """Characters of two to four bytes, cut by a block's end, and bytes that are none."""
    names = ["/ä€😀" + "x" * at for at in range(5)] * 40
    given = tmp_path / "l.csv"
    lines = [name.encode() + (b"\xff\xc3" if at % 9 == 0 else b"") for at, name in enumerate(names)]
    given.write_bytes(b"uri\n" + b"\n".join(lines) + b"\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_lists, "BLOCK_BYTES", 251)
        assert good(given) == [name for at, name in enumerate(names) if at % 9]
        assert list(bad(given).values())[1].endswith(f"that is not UTF-8: {lines[9]!r}; save the list as UTF-8")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        pytest.param('"never closed', '"never closed', id="never closed"),
        pytest.param('5" x 7"', '5" x 7"', id="inches"),
        pytest.param('"half" closed', "half closed", id="closed too early"),
        pytest.param('"two\nlines, ""quoted"""', 'two\nlines, "quoted"', id="two lines"),
        pytest.param('"\r\n\r\n"', "\r\n\r\n", id="blank lines"),
        pytest.param('"' + "a line\n" * 20 + '"', "a line\n" * 20, id="more than a block"),
        pytest.param('"caf\udce9 never closed', None, id="nor UTF-8"),
    ],
)
@pytest.mark.parametrize("after", ["/b,2\n", '/b,"2"\n'], ids=["plain", "quotes"])
@pytest.mark.parametrize("block", [300, 2**20])
def test_a_quote_costs_no_other_row(
    written: str, value: str | None, after: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_lists, "BLOCK_BYTES", block)
    given = tmp_path / "l.csv"
    given.write_bytes(f"uri,n\n/a,{written}\n{40 * after}".encode("utf-8", "surrogateescape"))
    found = [(row["uri"], row["n"]) for row in rows(given, carry_columns=("n",)) if not row["list_error"]]
    assert found == [*([] if value is None else [("/a", value)]), *40 * [("/b", "2")]]
    assert list(bad(given, carry_columns=("n",))) == (["#row=1"] if value is None else [])


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf \r\n", b"uri,n\n"])
def test_a_csv_without_records(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_bytes(content)
    assert rows(tmp_path / "l.csv") == []


def test_bad_rows_of_csv_do_not_move_the_numbers_of_others(tmp_path: Path) -> None:
    given = tmp_path / "l.csv"
    given.write_text("uri,n\n1,2,3\n/a,1\n,5\n4,5,6\n/b,1\n\n,7\n")
    assert good(given, carry_columns=("n",)) == ["/a", "/b"]
    assert list(bad(given)) == ["#row=1", "#row=4", "#row=3", "#row=6"]


def test_a_parquet_row_with_a_null_or_without_utf8(tmp_path: Path) -> None:
    given = tmp_path / "l.parquet"
    broken = pa.array([b"/a", b"\xff", None, b"/b"]).view(pa.string())
    pq.write_table(pa.table({"uri": broken, "n": [1, 2, 3, 4]}), given)
    found = rows(given, carry_columns=("n",))
    assert [(row["uri"], row["n"]) for row in found] == [
        *[("/a", 1), ("/b", 4)],
        *[(f"{given}#row=2", None), (f"{given}#row=3", None)],
    ]


@pytest.mark.parametrize(("header", "near"), [("URI,n", "'URI'"), ("n,uri ", "'uri '"), ("url,n", None)])
def test_a_column_that_is_nearly_there(header: str, near: str | None, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text(f"{header}\n/a,/b\n")
    with pytest.raises(ListError, match="has no column uri; --uri_column must name one of ") as refused:
        rows(tmp_path / "l.csv")
    assert str(refused.value).endswith(f"; did you mean {near}?" if near else "one of url, n")


def test_other_delimiters(tmp_path: Path) -> None:
    given = tmp_path / "l.csv"
    given.write_text("n;uri\n1,5;/a\n")
    assert rows(given, delimiter=";", carry_columns=("n",))[0]["n"] == "1,5"
    with pytest.raises(ListError, match=r"has the column uri with another delimiter; add --delimiter=';'"):
        rows(given)
    given.write_text("n\turi\n1\t/a\n")
    with pytest.raises(ListError, match=r"--delimiter='\\t'"):
        rows(given)


def test_fields_of_structs(tmp_path: Path) -> None:
    images = [{"path": "/a", "bytes": None}, {"path": None, "bytes": b"x"}, None]
    given = tmp_path / "l.parquet"
    pq.write_table(pa.table({"image": images, "label": [1, 2, 3]}), given)
    assert good(given, uri_column="image.path", carry_columns=("label",)) == ["/a"]
    assert list(bad(given, uri_column="image.path")) == ["#row=2", "#row=3"]
    assert good(given, uri_column="image") == good(given, uri_column="image.bytes") == ["/a"]  # no image is inside
    pq.write_table(pa.table({"image": [{"url": "/a", "page": "/b"}]}), given)
    with pytest.raises(ListError, match=r"--uri_column, such as image\.url or image\.page"):
        rows(given, uri_column="image")
    (tmp_path / "l.jsonl").write_text('{"image": {"path": "/a"}}\n{"image": 3}\n')
    assert good(tmp_path / "l.jsonl", uri_column="image.path") == ["/a"]


@pytest.mark.parametrize("type_", [pa.binary_view(), pa.string_view(), pa.large_binary(), pa.large_string()], ids=str)
def test_views_and_large_types(type_: pa.DataType, tmp_path: Path) -> None:
    values = pa.array(["/a", "/b"])
    texts = values.cast(pa.binary()).cast(type_) if "binary" in str(type_) else values.cast(type_)
    pq.write_table(pa.table({"uri": texts, "copy": texts}), tmp_path / "l.parquet")
    assert good(tmp_path / "l.parquet", carry_columns=("copy",)) == ["/a", "/b"]


def test_dictionaries_are_carried_as_their_values(tmp_path: Path) -> None:
    label = pa.array(["cat", "dog", "cat"]).dictionary_encode()
    pq.write_table(pa.table({"uri": ["/a", "/b", "/c"], "label": label}), tmp_path / "l.parquet")
    assert [row["label"] for row in rows(tmp_path / "l.parquet", carry_columns=("label",))] == ["cat", "dog", "cat"]


@pytest.mark.parametrize("far", [False, True], ids=["near", "in another block"])
def test_values_of_several_types_become_text(far: bool, tmp_path: Path) -> None:
    values = [1, "x", None, {"a": [1]}, 2**70, True]
    lines = [{"uri": f"/{at}", "n": value, "filler": "x" * far * 2**20} for at, value in enumerate(values)]
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = [row["n"] for row in rows(tmp_path / "l.jsonl", carry_columns=("n",))]
    assert found == ["1", "x", None, '{"a": [1]}', str(2**70), "true"]


def test_a_json_array_over_several_lines(tmp_path: Path) -> None:
    (tmp_path / "l.jsonl").write_text(json.dumps([{"uri": "/a"}, {"uri": "/b"}], indent=1))
    assert good(tmp_path / "l.jsonl") == ["/a", "/b"]
    (tmp_path / "keys.json").write_text('{"a.jpg": {"caption": "a dog"}}')
    with pytest.raises(ListError, match=r"neither an array of objects .*; write it as JSON lines, .* 'keys\[\]'"):
        rows(tmp_path / "keys.json")


def test_relative_names_start_at_the_working_folder_or_else_at_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("here/both.jpg", "lists/both.jpg", "lists/beside.jpg", "lists/0.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "lists" / "l.txt").write_text("both.jpg\nbeside.jpg\n./nowhere.jpg\n0.tar#a.jpg\n/abs.jpg\n")
    with caplog.at_level(logging.WARNING):
        assert good("../lists/l.txt") == [
            f"{tmp_path}/here/both.jpg",
            f"{tmp_path}/lists/beside.jpg",
            f"{tmp_path}/here/nowhere.jpg",
            f"{tmp_path}/lists/0.tar#a.jpg",
            "/abs.jpg",
        ]
    assert (
        f"1 relative name not found, neither in {tmp_path}/here nor in {tmp_path}/lists: ./nowhere.jpg" in caplog.text
    )


def test_relative_names_in_a_bucket(bucket) -> None:
    names = ["a.jpg", "./b.jpg", "../c.jpg", "./../d.jpg", "../../e.jpg", "x/../f.jpg"]
    bucket.blob("lists/l.txt").upload_from_string("\n".join(names))
    assert [uri.removeprefix(f"gs://{bucket.name}/") for uri in good(f"gs://{bucket.name}/lists/l.txt")] == [
        *("lists/a.jpg", "lists/b.jpg", "c.jpg", "d.jpg", "../e.jpg", "lists/x/../f.jpg")
    ]


def test_who_chose_a_list(tmp_path: Path, bucket) -> None:
    (tmp_path / "l.txt").write_text("/etc/x.jpg\n")
    assert rows(tmp_path / "l.txt")[0]["is_trusted"] is True
    assert rows(tmp_path / "l.txt", trust_local=False)[0]["is_trusted"] is False
    bucket.blob("lists/l.txt").upload_from_string("/etc/x.jpg\n../b.jpg\nc.jpg\n")
    found = rows(f"gs://{bucket.name}/lists/l.txt")
    assert {row["is_trusted"] for row in found} == {False}
    assert [row["uri"] for row in found][2] == f"gs://{bucket.name}/lists/c.jpg"
