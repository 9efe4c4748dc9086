"""Local files and an emulated bucket behave alike: list, read, replace as a whole, create once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from beam_job.storage import LATER, StorageError, UnknownSchemeError, join, local_path, local_uri, storage_for
from beam_job.storage.versions import listed_version_of


@pytest.fixture(params=["local", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder to work in: one of this machine, one of the emulator."""
    if request.param == "local":
        return str(tmp_path)
    return f"gs://{request.getfixturevalue('bucket').name}/folder"


def test_write_then_read(root: str) -> None:
    uri = join(root, "a", "b.txt")
    storage = storage_for(uri)
    assert not storage.exists(uri)
    storage.write(uri, b"one")
    storage.write(uri, b"two")
    assert storage.exists(uri)
    data, version = storage.read(uri)
    assert data == b"two"
    [listed] = storage.list(root)
    assert (listed.uri, listed.version) == (uri, listed_version_of(version))


def test_another_content_has_another_version(root: str) -> None:
    uri = join(root, "x")
    storage_for(uri).write(uri, b"one")
    before = storage_for(uri).read(uri)[1]
    storage_for(uri).write(uri, b"three")
    assert storage_for(uri).read(uri)[1] != before


def test_open_seeks(root: str) -> None:
    uri = join(root, "x")
    storage_for(uri).write(uri, b"0123456789")
    with storage_for(uri).open(uri) as file:
        file.seek(7)
        assert file.read(2) == b"78"


def test_list_finds_what_is_below_and_what_matches(root: str) -> None:
    storage = storage_for(root)
    for name in ("a.jpg", "sub/b.jpg", "sub/deep/c.jpg", "sub/d.txt"):
        storage.write(join(root, *name.split("/")), b"x")
    everything = [join(root, name) for name in ("a.jpg", "sub/b.jpg", "sub/d.txt", "sub/deep/c.jpg")]
    assert sorted(found.uri for found in storage.list(root)) == everything
    assert sorted(found.uri for found in storage.list(root + "/")) == everything
    assert [found.uri for found in storage.list(join(root, "sub", "*.jpg"))] == [join(root, "sub/b.jpg")]
    assert len(list(storage.list(join(root, "**", "*.jpg")))) == 3
    assert [found.uri for found in storage.list(join(root, "a.jpg"))] == [join(root, "a.jpg")]
    assert storage.is_folder(join(root, "sub"))
    assert not storage.is_folder(join(root, "a.jpg"))


def test_missing(root: str) -> None:
    uri = join(root, "missing.jpg")
    with pytest.raises(StorageError, match=r"missing\.jpg") as caught:
        storage_for(uri).read(uri)
    assert caught.value.cause in ("FileNotFoundError", "NotFound")
    assert (caught.value.transient, caught.value.retry_when) == (False, LATER)


def test_create_once(tmp_path: Path) -> None:
    uri = str(tmp_path / "sub" / "x")
    assert storage_for(uri).create(uri, b"first")
    assert not storage_for(uri).create(uri, b"second")
    assert Path(uri).read_bytes() == b"first"
    assert os.listdir(tmp_path / "sub") == ["x"]


def test_create_once_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    test_create_once(tmp_path)


def test_failed_write_leaves_no_trace(tmp_path: Path) -> None:
    folder = tmp_path / "taken"
    folder.mkdir()
    with pytest.raises(StorageError, match="taken"):
        storage_for(str(folder)).write(str(folder), b"x")
    assert os.listdir(tmp_path) == ["taken"]


@pytest.mark.parametrize("uri", ["ftp://host/x", "r2://bucket/x"])
def test_unknown_scheme(uri: str) -> None:
    with pytest.raises(UnknownSchemeError, match=r"use a local path, file:// or gs://; .* http://, https://, s3://"):
        storage_for(uri)


def test_a_local_file_that_changed_comes_with_its_own_version(tmp_path: Path) -> None:
    uri = str(tmp_path / "x")
    Path(uri).write_bytes(b"new")
    data, version = storage_for(uri).read(uri, version="7-1", timeout=1.0, size=7, crc32c="AAAAAA==")
    assert (data, listed_version_of(version)) == (b"new", storage_for(uri).stat(uri).version)


def test_the_cause_of_a_local_error_is_kept(tmp_path: Path) -> None:
    uri = str(tmp_path / "missing")
    with pytest.raises(StorageError) as caught:
        storage_for(uri).read(uri)
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_no_bucket() -> None:
    with pytest.raises(StorageError, match="names no bucket"):
        list(storage_for("gs://").list("gs:///x"))


def test_a_folder_that_cannot_be_listed_is_an_error_and_not_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read everything, so the refusal is the file system's in name only."""
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    (tmp_path / "secret").mkdir()
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(StorageError, match="Permission denied"):
        list(storage_for(str(tmp_path)).list(str(tmp_path)))


def test_file_uris_and_names_that_are_no_text(tmp_path: Path) -> None:
    assert local_path("file:///a%20b/c.jpg") == "/a b/c.jpg"
    name = os.fsdecode(os.fsencode(str(tmp_path)) + b"/caf\xe9.jpg")
    Path(name).write_bytes(b"x")
    [found] = storage_for(str(tmp_path)).list(str(tmp_path))
    assert found.uri == local_uri(name) == f"file://{tmp_path}/caf%E9.jpg"
    assert storage_for(found.uri).read(found.uri)[0] == b"x"
