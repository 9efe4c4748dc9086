"""What folders, globs and buckets hold: nothing, leftovers, linked folders, folders that may not be read."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_job.inputs.filters import Filters
from beam_job.inputs.listing import InputError, list_images
from beam_job.inputs.rows import ListedFailure
from tests.listed import fill, names, rows

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
        ("?mpty", "holds no images (only 1 operating system files)"),
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
    assert "10 operating system files skipped" in caplog.text


def test_leftovers_in_a_bucket(bucket, caplog: pytest.LogCaptureFixture) -> None:
    root = f"gs://{bucket.name}/photos"
    for name in ("a.jpg", "deep/b.jpg", *LEFTOVERS):
        bucket.blob(f"photos/{name}").upload_from_string(b"x")
    for given in (root, f"{root}/", f"{root}/**"):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            assert [row["uri"] for row in rows(given)] == [f"{root}/a.jpg", f"{root}/deep/b.jpg"]
        assert "10 operating system files skipped" in caplog.text


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


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("photos.zip", "an archive, from which images are not read; unpack it"),
        ("data-00000-of-00001.arrow", "an Arrow file, which is not supported; write it as Parquet"),
        ("train.tfrecord-00000-of-00002", "a file of records, which is not supported; write its images to tars"),
        ("list.XLSX", "a spreadsheet, which is not supported; save it as CSV"),
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
    assert (
        f"{tmp_path}: 2 other files, such as {tmp_path}/0001, not read (for other file types give a glob)"
        in caplog.text
    )
