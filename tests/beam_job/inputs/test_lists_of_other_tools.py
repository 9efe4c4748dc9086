"""Lists as other systems and tools write them: encodings, compressions, spellings of names, JSON of data sets."""

from __future__ import annotations

import base64
import bz2
import json
import logging
import lzma
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_job.inputs.lists import read_list
from beam_job.inputs.rows import ListedFailure, ListError, ListOptions
from beam_job.inputs.tar_contents import read_contents
from beam_job.storage import storage_for
from beam_job.storage.near_miss import near_miss
from tests.beam_job.inputs.test_input_forms import photograph

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123456789\n"


def rows(given: Path, **options: object) -> list[dict]:
    batches = read_list(str(given), options=ListOptions(**options))  # type: ignore[arg-type]
    return [row for batch in batches for row in batch.to_pylist()]


def good(given: Path, **options: object) -> list[str]:
    return [row["uri"] for row in rows(given, **options) if not row["list_error"]]


def bad(given: Path, **options: object) -> list[str]:
    return [ListedFailure.from_json(row["list_error"]).message for row in rows(given, **options) if row["list_error"]]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two photographs, below the folder of the list; the working folder is another one."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for name in ("a b.jpg", "caf\u00e9.jpg"):
        (tmp_path / "photos" / name).write_bytes(photograph(120))
    return tmp_path / "photos"


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("l.txt", "/a \u00e9.jpg\r\n/b.jpg\r\n", id="text"),
        pytest.param("l.tsv", "uri\tn\r\n/a \u00e9.jpg\t1\r\n/b.jpg\t2\r\n", id="Excel's Unicode text"),
        pytest.param("l.jsonl", '{"uri": "/a \u00e9.jpg"}\r\n{"uri": "/b.jpg"}', id="JSON lines"),
    ],
)
def test_utf16(name: str, content: str, codec: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(("\ufeff" + content).encode(codec))
    assert good(tmp_path / name) == ["/a \u00e9.jpg", "/b.jpg"]


@pytest.mark.parametrize(("suffix", "pack"), [(".bz2", bz2.compress), (".xz", lzma.compress)])
@pytest.mark.parametrize(("name", "content"), [("l.txt", b"/a\n/b\n"), ("l.csv", b"uri\n/a\n/b\n")])
def test_compressions(name: str, content: bytes, suffix: str, pack, tmp_path: Path) -> None:
    given = tmp_path / f"{name}{suffix}"
    given.write_bytes(pack(content))
    assert good(given) == ["/a", "/b"]
    given.write_bytes(pack(content)[:-8])
    with pytest.raises(ListError, match=f"{name}{suffix} cannot be read as"):
        rows(given)


def test_the_output_of_find_print0(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_bytes(b"/a\0/b c\0/caf\xc3\xa9\0")
    assert good(tmp_path / "l.txt") == ["/a", "/b c", "/caf\u00e9"]


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        pytest.param("photos\\a b.jpg", "a b.jpg", id="backslashes"),
        pytest.param('"photos/a b.jpg"', "a b.jpg", id="quotes"),
        pytest.param('"photos\\a b.jpg"', "a b.jpg", id="copied as a path"),
        pytest.param(unicodedata.normalize("NFD", "photos/caf\u00e9.jpg"), "caf\u00e9.jpg", id="NFD"),
    ],
)
def test_relative_names_as_other_systems_spell_them(spelled: str, name: str, photos: Path) -> None:
    given = photos.parent / "l.txt"
    given.write_text(spelled)
    assert good(given) == [str(photos / name)]
    (photos.parent / spelled).parent.mkdir(exist_ok=True)
    (photos.parent / spelled).touch()
    assert good(given) == [str(photos.parent / spelled)]  # a file of exactly this name takes precedence


def test_relative_names_with_escapes_below_the_home_folder_and_as_uris_of_java(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(photos))
    given = photos.parent / "l.txt"
    given.write_text(f"photos/a%20b.jpg\n~/a b.jpg\nfile:{photos}/a%20b.jpg\nphotos/100%00.jpg\n")
    assert good(given) == [
        *(f"{photos}/a b.jpg", f"{photos}/a b.jpg", f"file://{photos}/a%20b.jpg"),
        f"{photos}/100%00.jpg",  # there is no such file
    ]


def test_quoted_absolute_names(photos: Path) -> None:
    given = photos.parent / "l.csv"
    given.write_text(f"id, uri\n1, {photos}/a b.jpg\n2, https://host/x.jpg\n")
    assert good(given, uri_column=" uri") == [f"{photos}/a b.jpg", "https://host/x.jpg"]


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        pytest.param("photos/a b.jpg 0", "; there is {}/a b.jpg, the same name without what follows it", id="label"),
        pytest.param("photos/a b.jpg\tdog", "; there is {}/a b.jpg, the same name without what follows it", id="tab"),
        pytest.param("photos/a b.jpg,dog", "; there is {}/a b.jpg, the same name without what follows it", id="CSV"),
        pytest.param("photos/A b.JPG", "; there is {}/a b.jpg, which differs only in letter case", id="capitals"),
        pytest.param("www.host.org/a.jpg", "; a web address is written alone, as https://HOST/NAME", id="www"),
        pytest.param("//host/a.jpg", "; a web address is written alone, as https://HOST/NAME", id="no scheme"),
        pytest.param("<https://host/a.jpg>", "; a web address is written alone, as https://HOST/NAME", id="brackets"),
        pytest.param("C:\\photos\\a.jpg", "; this is a path of Windows, name the file as", id="Windows"),
    ],
)
def test_lines_that_need_another_form(line: str, hint: str, photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = photos.parent / "l.txt"
    given.write_text(line)
    with caplog.at_level(logging.WARNING):
        [uri] = good(given)
    assert near_miss(uri).startswith(hint.format(photos))
    assert (" must be one name, without sizes or labels" in caplog.text) == (" " in line or "\t" in line)


def test_json_lines_in_a_json_file(tmp_path: Path) -> None:
    (tmp_path / "l.json").write_text('{"uri": "/a"}\n{"uri": "/b"}\n')
    assert good(tmp_path / "l.json") == ["/a", "/b"]


def test_annotations_of_coco(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "/a.jpg", "license": 3}, {"id": 2, "file_name": "/b.jpg", "license": 4}]
    (tmp_path / "l.json").write_text(json.dumps({"info": {}, "images": images, "annotations": [{"image_id": 1}]}))
    found = rows(tmp_path / "l.json", uri_column="file_name", carry_columns=("license",))
    assert [(row["uri"], row["license"]) for row in found] == [("/a.jpg", 3), ("/b.jpg", 4)]


def test_several_images_in_a_row_of_json(tmp_path: Path) -> None:
    lines = [{"images": ["/a", "/b"], "id": 1}, {"images": [], "id": 2}, {"images": ["/c", 7], "id": 3}]
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = rows(tmp_path / "l.jsonl", uri_column="images", carry_columns=("id",))
    assert [(row["uri"], row["id"]) for row in found if not row["list_error"]] == [("/a", 1), ("/b", 1), ("/c", 3)]
    assert [reason.partition("row ")[2] for reason in bad(tmp_path / "l.jsonl", uri_column="images")] == [
        "2 has [] instead of text in column images",
        "3 has 7 instead of text in column images",
    ]


def test_arrays_of_names_and_columns_of_lists_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "l.json").write_text('["/a", "/b"]')
    assert [reason.rpartition("; ")[2] for reason in bad(tmp_path / "l.json")] == [
        "write an array of names as text: jq -r '.[]' FILE.json > FILE.txt"
    ] * 2
    pq.write_table(pa.table({"images": [["/a", "/b"]]}), tmp_path / "l.parquet")
    with pytest.raises(ListError, match=r"write one row per image, with DuckDB: SELECT unnest\(images\)"):
        rows(tmp_path / "l.parquet", uri_column="images")


@pytest.mark.parametrize("prefix", ["data:image/jpeg;base64,", "DATA:;base64,", ""])
def test_images_as_text_are_failures_of_one_short_line(prefix: str, tmp_path: Path) -> None:
    text = prefix + base64.b64encode(photograph(120) * 4).decode()
    pq.write_table(pa.table({"uri": [text, "/a/" + "long" * 600 + ".jpg"]}), tmp_path / "l.parquet")
    assert len(good(tmp_path / "l.parquet")) == 1
    [reason] = bad(tmp_path / "l.parquet")
    assert reason.endswith(
        "row 1 holds data in uri, not a URI; write the images to files, or decode them into a "
        "column of bytes in Parquet"
    )


@pytest.mark.parametrize("path", ["/a.jpg", None])
def test_the_struct_of_hugging_face_by_the_name_of_its_column(path: str | None, tmp_path: Path) -> None:
    image = {"bytes": photograph(120), **({"path": path} if path else {})}
    pq.write_table(pa.table({"image": [image]}), tmp_path / "l.parquet")
    [row] = rows(tmp_path / "l.parquet", uri_column="image")
    assert row["uri"] == (path or f"{tmp_path}/l.parquet#row=1")
    assert json.loads(row["parquet_place"])[3] == "image.bytes"


def test_relative_paths_beside_null_bytes(photos: Path) -> None:
    image = {"bytes": None, "path": "photos/a b.jpg"}
    schema = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))])
    pq.write_table(pa.table({"image": [image]}, schema=schema), photos.parent / "l.parquet")
    assert good(photos.parent / "l.parquet", uri_column="image.bytes") == [f"{photos}/a b.jpg"]


@pytest.mark.parametrize("name", ["l.parquet", "l.csv", "l.txt"])
def test_a_pointer_of_git_lfs(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(ListError, match=f"{name} is a Git LFS pointer; fetch the file with: git lfs pull"):
        rows(tmp_path / name)


def test_a_tar_that_is_a_pointer_of_git_lfs(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_text(POINTER)
    assert read_contents(storage_for(str(tmp_path)), f"{tmp_path}/x.tar").damage == (
        f"{tmp_path}/x.tar is a Git LFS pointer; fetch the file with: git lfs pull"
    )
