"""What folders, globs and buckets turn out to hold: lists, leftovers, linked folders, folders that may not be read."""

from __future__ import annotations

import gzip
import logging
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_job.config import JobConfig
from beam_job.inputs.filters import Filters
from beam_job.inputs.listing import InputError, list_images
from beam_job.inputs.rows import ListedFailure, ListOptions
from beam_job.storage import StorageError, storage_for


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def rows(*inputs: object, **options: object) -> list[dict]:
    batches = list_images([str(given) for given in inputs], ListOptions(**options))  # type: ignore[arg-type]
    return [row for batch in batches for row in batch.to_pylist()]


def names(folder: Path, given: object) -> list[str]:
    return [row["uri"].removeprefix(f"{folder}/") for row in rows(given)]


# Many lists


def parts(folder: Path) -> None:
    for day, uri in (("2024-05-06", "/a.jpg"), ("2024-05-07", "/b.jpg"), ("__HIVE_DEFAULT_PARTITION__", "/c.jpg")):
        (folder / f"date={day}").mkdir(parents=True)
        pq.write_table(pa.table({"uri": [uri], "n": [1]}), folder / f"date={day}" / "part-0.parquet")
    fill(folder, "_SUCCESS", "date=2024-05-06/.part-0.parquet.crc", "date=2024-05-06/_committed_7")


@pytest.mark.parametrize("given", ["{}", "{}/", "{}/**/*.parquet", "{}/*/part-*.parquet", "{}/date=*/*.parquet"])
def test_hive_partitions(given: str, folder: Path) -> None:
    parts(folder)
    found = rows(given.format(folder), carry_columns=("date", "n"))
    assert [(row["uri"], row["date"], row["n"]) for row in found] == [
        *[("/a.jpg", "2024-05-06", 1), ("/b.jpg", "2024-05-07", 1), ("/c.jpg", None, 1)]
    ]


@pytest.mark.parametrize("given", ["{}", "{}/**", "{}/**/*.parquet"])
def test_what_spark_and_delta_lake_write_beside_lists(given: str, folder: Path, caplog) -> None:
    parts(folder)
    for name in ("_delta_log", "_temporary/0", "_year=2024"):
        (folder / name).mkdir(parents=True)
        pq.write_table(pa.table({"uri": [f"/{name}.jpg"]}), folder / name / "0.parquet")
    fill(folder, ".x.crc", "_delta_log/0.json")
    found = {row["uri"] for row in rows(given.format(folder))}
    assert found == {"/a.jpg", "/b.jpg", "/c.jpg", "/_year=2024.jpg"}


def test_a_pattern_may_ask_for_them(folder: Path) -> None:
    parts(folder / "_kept")
    assert len(rows(f"{folder}/_k*/**/*.parquet")) == len(rows(f"{folder}/_kept")) == 3
    fill(folder, "photos/_a", "photos/.b")
    assert names(folder, f"{folder}/photos/*") == ["photos/.b", "photos/_a"]


def test_one_of_several_lists_lacks_the_column(folder: Path) -> None:
    for name, text in (("0", "url\n/0.jpg\n"), ("1", "uri\n/1.jpg\n"), ("2", "uri;n\n/2.jpg;1\n")):
        fill(folder, f"{name}.csv")
        (folder / f"{name}.csv").write_text(text)
    read, first, last = rows(f"{folder}/*.csv")
    assert read["uri"] == "/1.jpg"
    assert (first["uri"], last["uri"]) == (f"{folder}/0.csv", f"{folder}/2.csv")
    assert "has no column uri" in first["list_error"]
    assert "add --delimiter=';'" in last["list_error"]
    (folder / "1.csv").unlink()
    with pytest.raises(InputError, match=r"0\.csv has no column uri; --uri_column must name one of url"):
        rows(f"{folder}/*.csv")


def test_a_carried_column_that_some_lists_lack_is_null(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(folder, "0.jsonl")
    (folder / "0.jsonl").write_text('{"uri": "/0.jpg"}\n')
    (folder / "1.jsonl").write_text('{"uri": "/1.jpg", "n": 1}\n')
    found = rows(f"{folder}/*.jsonl", carry_columns=("n",))
    assert [(row["uri"], row["n"], row["list_error"]) for row in found] == [("/1.jpg", 1, None), ("/0.jpg", None, None)]
    assert f"{folder}/0.jsonl has no column n; " in caplog.text
    with pytest.raises(InputError, match="has no column m"):
        rows(f"{folder}/*.jsonl", carry_columns=("m",))


def test_a_folder_that_spark_named_like_a_file(tmp_path: Path) -> None:
    parts(tmp_path / "out.parquet")
    assert len(rows(tmp_path / "out.parquet")) == 3


KINDS = ["{}.csv", "{}.csv.gz", "{}.csv.zst", "{}.tsv", "{}.txt", "{}.jsonl", "{}.parquet"]


def write_lists(folder: Path, name: str) -> None:
    for number in (1, 2):
        path = folder / name.format(number)
        text = {".t": f"/{number}.jpg\n", ".j": f'{{"uri": "/{number}.jpg"}}\n'}
        data = text.get(name[2:4], f"uri\n/{number}.jpg\n").encode()
        if name == "{}.tsv":
            data = f"n\turi\n1\t/{number}.jpg\n".encode()
        if name == "{}.parquet":
            pq.write_table(pa.table({"uri": [f"/{number}.jpg"]}), path)
        else:
            packed = {"gz": gzip.compress(data), "st": pa.compress(data, "zstd", asbytes=True)}
            path.write_bytes(packed.get(name[-2:], data))


def found_in_each_way(root: str, name: str) -> list[list[str]]:
    return [[row["uri"] for row in rows(f"{root}{end}")] for end in ("", f"/*{name[2:]}", f"/**/*{name[2:]}")]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_list_in_folders_and_globs(name: str, folder: Path) -> None:
    write_lists(folder, name)
    assert found_in_each_way(str(folder), name) == [["/1.jpg", "/2.jpg"]] * 3


def test_every_kind_of_list_in_a_bucket(folder: Path, bucket) -> None:
    for number, name in enumerate(KINDS):
        write_lists(folder, name)
        for file in (folder / name.format(1), folder / name.format(2)):
            bucket.blob(f"{number}/{file.name}").upload_from_filename(str(file))
        assert found_in_each_way(f"gs://{bucket.name}/{number}", name) == [["/1.jpg", "/2.jpg"]] * 3


def test_a_folder_of_images_and_lists_says_what_it_takes(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(folder, "a.jpg", "a.txt", "b.jpg", "b.txt", "metadata.csv")
    with caplog.at_level(logging.INFO):
        assert names(folder, folder) == ["a.jpg", "b.jpg"]
    assert f"1 lists beside them are not read, such as {folder}/metadata.csv" in caplog.text


def test_one_list_of_several_that_is_damaged(folder: Path) -> None:
    fill(folder, "b.parquet")
    pq.write_table(pa.table({"uri": ["/a.jpg"], "n": [1]}), folder / "a.parquet")
    pq.write_table(pa.table({"uri": ["/c.jpg"], "n": [2]}), folder / "c.parquet")
    found = rows(folder, carry_columns=("n",))
    assert [(row["uri"], row["n"]) for row in found] == [("/a.jpg", 1), (f"{folder}/b.parquet", None), ("/c.jpg", 2)]
    assert "cannot be read as Parquet" in ListedFailure.from_json(found[1]["list_error"]).message


# Nothing to do


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("empty", "the folder {}/empty holds no images"),
        ("empty.txt", "the list {}/empty.txt is empty"),
        ("empty.csv", "is empty"),
        ("empty.jsonl", "is empty"),
        ("empty.parquet", "is empty"),
        ("empty.*", "holds no"),
        ("?mpty", "holds no images (only 1 leftovers of operating systems)"),
    ],
)
def test_what_is_there_and_empty_is_no_error(
    given: str, said: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "empty").mkdir()
    fill(folder, "empty.txt", "empty.jsonl")
    (folder / "empty.txt").write_text("\n \n")
    (folder / "empty.jsonl").write_text("")
    (folder / "empty.csv").write_text("uri\n")
    pq.write_table(pa.table({"uri": pa.array([], pa.string())}), folder / "empty.parquet")
    if given == "?mpty":
        shutil.rmtree(folder)
        fill(folder, "._mpty")
        given = "*"
    assert rows(folder / given) == []
    assert said.format(folder) in caplog.text


# Braces


def test_braces(folder: Path) -> None:
    fill(folder, *(f"{number:02}.jpg" for number in range(12)), "a.png", "b.png", "{a,b}.png", "x[1].jpg")
    assert names(folder, folder / "{08..11}.jpg") == ["08.jpg", "09.jpg", "10.jpg", "11.jpg"]
    assert names(folder, folder / "{a,b}.png") == ["{a,b}.png"]
    (folder / "{a,b}.png").unlink()
    assert names(folder, folder / "{a,b}.png") == ["a.png", "b.png"]
    assert names(folder, folder / "{a*,0?}.{png,webp}") == ["a.png"]
    assert names(folder, folder / "x[1].jpg") == ["x[1].jpg"]
    with pytest.raises(InputError, match=r"12\.jpg does not exist"):
        names(folder, folder / "{11..12}.jpg")


def test_braces_in_a_bucket(bucket) -> None:
    root = f"gs://{bucket.name}"
    for name in ("00.jpg", "01.jpg", "a.png", "{a,b}.png", "x[1].jpg", "x1.jpg"):
        bucket.blob(name).upload_from_string(b"x")
    assert names(Path("/"), f"{root}/{{00..01}}.jpg") == [f"{root}/00.jpg", f"{root}/01.jpg"]
    assert names(Path("/"), f"{root}/{{a,b}}.png") == [f"{root}/{{a,b}}.png"]
    assert names(Path("/"), f"{root}/x[1].jpg") == [f"{root}/x[1].jpg"]


# Leftovers

LEFTOVERS = (
    *("._a.jpg", "__MACOSX/a.jpg", ".thumbnails/a.jpg", "@eaDir/a.jpg/SYNOPHOTO_THUMB.jpg", "$RECYCLE.BIN/a.jpg"),
    *("deep/@eaDir/a.jpg", "Thumbs.db", "deep/.DS_Store", ".Trash-1000/files/a.jpg", "#recycle/a.jpg"),
)


@pytest.mark.parametrize("given", ["", "/", "/**/*", "/**"])
def test_leftovers_are_skipped_and_counted(given: str, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(folder, "a.jpg", "deep/b.jpg", *LEFTOVERS)
    with caplog.at_level(logging.INFO):
        assert names(folder, f"{folder}{given}") == ["a.jpg", "deep/b.jpg"]
    assert "10 leftovers of operating systems skipped" in caplog.text


def test_leftovers_in_a_bucket(bucket, caplog: pytest.LogCaptureFixture) -> None:
    root = f"gs://{bucket.name}/photos"
    for name in ("a.jpg", "deep/b.jpg", *LEFTOVERS):
        bucket.blob(f"photos/{name}").upload_from_string(b"x")
    for given in (root, f"{root}/", f"{root}/**"):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            assert [row["uri"] for row in rows(given)] == [f"{root}/a.jpg", f"{root}/deep/b.jpg"]
        assert "10 leftovers of operating systems skipped" in caplog.text


def test_leftovers_that_are_asked_for_by_name(folder: Path) -> None:
    fill(folder, "@eaDir/a.jpg", "._b.jpg")
    assert names(folder, folder / "@eaDir") == names(folder, folder / "@eaDir/*.jpg") == ["@eaDir/a.jpg"]
    assert names(folder, folder / "._*") == ["._b.jpg"]


def test_suffixes_of_images(folder: Path) -> None:
    wanted = ["A.JPG", "b.jfif", "c.JPE", "d.pjpeg", "e.HEIC", "f.TiF"]
    fill(folder, *wanted, "g.txt.bak", "h.psd")
    assert names(folder, folder) == wanted


# Links


@pytest.mark.parametrize("given", ["photos", "photos/**/*.jpg", "photos/**", "photos/*/*.jpg"])
def test_linked_folders_are_the_same_for_folder_and_glob(given: str, tmp_path: Path) -> None:
    fill(tmp_path, "photos/sub/a.jpg", "photos/sub/b.jpg", "disk/c.jpg")
    (tmp_path / "photos" / "parent").symlink_to("..")
    (tmp_path / "photos" / "sub" / "self").symlink_to(".")
    (tmp_path / "photos" / "again").symlink_to("sub")
    (tmp_path / "photos" / "linked").symlink_to("../disk")
    (tmp_path / "disk" / "back").symlink_to("../photos")
    found = names(tmp_path / "photos", tmp_path / given)
    assert found == ["sub/a.jpg", "sub/b.jpg", "linked/c.jpg"]


def test_a_folder_with_brackets_is_itself(folder: Path) -> None:
    fill(folder, "[2024]/a.jpg", "2/b.jpg")
    assert names(folder, folder / "[2024]" / "*.jpg") == ["[2024]/a.jpg"]
    assert names(folder, folder / "*" / "[ab].jpg") == ["2/b.jpg", "[2024]/a.jpg"]


# Folders that may not be read


@pytest.fixture
def deny(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a folder unreadable; root may read everything, so the refusal is the system's in name only."""
    real = os.scandir

    def deny(name: str) -> None:
        def scandir(path: str) -> object:
            if os.path.basename(path) == name:
                raise PermissionError(13, "Permission denied", path)
            return real(path)

        monkeypatch.setattr(os, "scandir", scandir)

    return deny


@pytest.mark.parametrize("given", ["photos", "photos/**/*.jpg", "photos/*/*.jpg"])
def test_a_subfolder_that_may_not_be_read_is_one_failure(given: str, tmp_path: Path, deny) -> None:
    fill(tmp_path, "photos/a/1.jpg", "photos/lost+found/2.jpg", "photos/z/3.jpg")
    deny("lost+found")
    first, failed, last = rows(tmp_path / given)
    assert (first["uri"], last["uri"]) == (f"{tmp_path}/photos/a/1.jpg", f"{tmp_path}/photos/z/3.jpg")
    assert failed["uri"] == f"{tmp_path}/photos/lost+found"
    reason = ListedFailure.from_json(failed["list_error"])
    assert (reason.error_type, reason.retry_when) == ("UnreadableFolder", "options")
    assert "Permission denied; change its permissions, or leave it out with --exclude" in reason.message


@pytest.mark.parametrize("pattern", ["lost+found", "**/lost+found", "**/lost+found/**", "**/lost*/*"])
def test_it_can_be_excluded(pattern: str, folder: Path, deny) -> None:
    fill(folder, "a.jpg", "lost+found/2.jpg")
    deny("lost+found")
    kept = Filters(exclude=(pattern,)).apply(list_images([str(folder)]))
    assert [uri for batch in kept for uri in batch["uri"].to_pylist()] == [f"{folder}/a.jpg"]
    kept = Filters(include=("*.jpg",), sample=1.0).apply(list_images([str(folder)]))
    assert [uri for batch in kept for uri in batch["uri"].to_pylist()] == [f"{folder}/a.jpg", f"{folder}/lost+found"]


def test_the_folder_itself_is_an_error(folder: Path, deny) -> None:
    fill(folder, "a.jpg")
    deny("photos")
    with pytest.raises(InputError, match="photos: Permission denied"):
        rows(folder)


# Near misses


@pytest.mark.parametrize(
    ("name", "asked", "how"),
    [
        ("caf\u00e9.jpg", "cafe\u0301.jpg", "its Unicode form"),
        ("\u00fc/a.jpg", "u\u0308/a.jpg", "its Unicode form"),
        ("IMG_1.JPG", "img_1.jpg", "capitals"),
    ],
)
def test_a_name_that_is_nearly_there(name: str, asked: str, how: str, folder: Path) -> None:
    fill(folder, name)
    assert name == unicodedata.normalize("NFC", name)
    with pytest.raises(StorageError, match=f"which differs in {how}") as caught:
        storage_for(str(folder)).read(str(folder / asked))
    assert name.split("/")[0] in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        pytest.param("a%20b.jpg", "there is {}/a b.jpg, the same name without %-escapes", id="URL"),
        pytest.param("sub\\c.jpg", "there is {}/sub/c.jpg, the same name with slashes", id="Windows"),
        pytest.param("dangling.jpg", "{}/dangling.jpg is a symbolic link to gone.jpg, which is not there", id="link"),
        pytest.param("linked/c.jpg", "{}/linked is a symbolic link to gone, which is not there", id="linked folder"),
        pytest.param("..%2Fsecret.jpg", "No such file or directory$", id="outside"),
    ],
)
def test_other_hints(asked: str, hint: str, folder: Path) -> None:
    fill(folder, "a b.jpg", "sub/c.jpg")
    (folder.parent / "secret.jpg").touch()
    (folder / "dangling.jpg").symlink_to("gone.jpg")
    (folder / "linked").symlink_to("gone")
    with pytest.raises(StorageError, match=hint.format(folder)):
        storage_for(str(folder)).read(str(folder / asked))


def test_a_relative_input_belongs_to_the_folder_where_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted run is resumed only by the same request."""
    requests = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        requests += [JobConfig((given,), "out").request for given in ("photos", "./photos/", f"{tmp_path}/l.txt")]
    assert requests[0] == requests[1]
    assert requests[0]["inputs"] == [f"{tmp_path}/a/photos"]
    assert requests[3]["inputs"] == [f"{tmp_path}/b/photos"]
    assert requests[2] != requests[5]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("photos.zip", "an archive, from which images are not read; unpack it"),
        ("data-00000-of-00001.arrow", "an Arrow file, which is not read; write it as Parquet"),
        ("train.tfrecord-00000-of-00002", "a file of records, which is not read; write its images to tars"),
        ("list.XLSX", "a spreadsheet, which is not read; save it as CSV"),
    ],
)
def test_files_that_hold_images_and_are_not_read(
    name: str, what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=f"{name} is {what}"):
        list(list_images([f"{tmp_path}/{name}"]))
    assert list(list_images([str(tmp_path)])) == []
    assert f"1 unread file, such as {tmp_path}/{name}, which is {what}" in caplog.text
    assert "holds no images (only 1 unread file)" in caplog.text


def test_files_of_other_names_beside_images_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "0001").touch()
    with caplog.at_level("INFO"):
        assert list(list_images([str(tmp_path)])) == []
        assert f"but 1 other file, such as {tmp_path}/0001; for other file types give a glob" in caplog.text
        (tmp_path / "a.jpg").touch()
        (tmp_path / "b.jpg.1").touch()
        assert len(list(list_images([str(tmp_path)]))) == 1
    assert f"{tmp_path}: 2 other files, such as {tmp_path}/0001, not read; for other file types give" in caplog.text
