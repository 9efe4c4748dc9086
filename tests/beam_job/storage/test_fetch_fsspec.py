"""Other clouds through fsspec: its memory, and S3 spoken by moto's server."""

from __future__ import annotations

import asyncio
import importlib
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from beam_job.storage import StorageError, UnknownSchemeError, storage_for
from beam_job.storage.fsspec_storage import FsspecStorage

pytest.importorskip("fsspec", reason="needs the extra fsspec")
NAMES = ("a.jpg", "sub/b.jpg", "sub/d.txt")


@pytest.fixture(params=["memory", "s3"])
def root(request: pytest.FixtureRequest) -> Iterator[str]:
    """A folder with three files."""
    fsspec: Any = importlib.import_module("fsspec")
    if request.param == "s3":
        request.getfixturevalue("s3_server")
    files = fsspec.filesystem(request.param, use_listings_cache=False)
    bucket = f"bucket-{uuid.uuid4().hex}"
    files.mkdir(f"/{bucket}" if request.param == "memory" else bucket)
    root = f"{request.param}://{bucket}/folder" if request.param == "s3" else f"memory:///{bucket}/folder"
    for name in NAMES:
        files.pipe_file(f"{root}/{name}", name.encode())
    yield root
    files.rm(root.rpartition("/")[0], recursive=True)


def test_list(root: str) -> None:
    storage = storage_for(root)
    assert [found.uri for found in storage.list(root)] == [f"{root}/{name}" for name in NAMES]
    assert [found.uri for found in storage.list(f"{root}/**/*.jpg")] == [f"{root}/a.jpg", f"{root}/sub/b.jpg"]
    assert [found.uri for found in storage.list(f"{root}/a.jpg")] == [f"{root}/a.jpg"]
    assert list(storage.list(f"{root}/missing")) == []
    assert storage.is_folder(f"{root}/sub")
    assert not storage.is_folder(f"{root}/a.jpg")


def test_listed_told_and_read_versions_agree(root: str) -> None:
    storage = storage_for(root)
    uri = f"{root}/a.jpg"
    [listed] = storage.list(uri)
    assert listed == storage.stat(uri)
    assert listed.size == 5
    assert storage.read(uri) == storage.read(uri, "another", 5.0, 99, "AAAAAA==") == (b"a.jpg", listed.version)


def test_another_content_has_another_version(root: str) -> None:
    uri = f"{root}/a.jpg"
    storage = storage_for(root)
    before = storage.read(uri)
    storage._fs.pipe_file(uri, b"other")
    after = storage.read(uri)
    assert after[0] == b"other"
    assert after[1] != before[1]


def test_open_and_exists(root: str) -> None:
    storage = storage_for(root)
    with storage.open(f"{root}/a.jpg") as file:
        file.seek(2)
        assert file.read() == b"jpg"
    assert storage.exists(f"{root}/a.jpg")
    assert not storage.exists(f"{root}/missing.jpg")


@pytest.mark.parametrize("name", ["missing.jpg", "sub"])
def test_what_is_no_file(root: str, name: str) -> None:
    with pytest.raises(StorageError, match=name) as caught:
        storage_for(root).read(f"{root}/{name}")
    assert not caught.value.transient
    assert caught.value.cause in ("FileNotFoundError", "IsADirectoryError")


def test_no_output(root: str) -> None:
    for method in (storage_for(root).create, storage_for(root).write):
        with pytest.raises(StorageError, match="is read-only; name a local folder or a gs:// bucket"):
            method(f"{root}/new", b"")
    assert not storage_for(root).exists(f"{root}/new")


class Stalling:
    """An asynchronous file system that never answers."""

    async_impl = True

    def __init__(self) -> None:
        self.loop = importlib.import_module("fsspec.asyn").get_loop()

    def _strip_protocol(self, uri: str) -> str:
        return uri

    async def _info(self, path: str) -> dict[str, object]:
        return {"name": path, "type": "file", "size": 5, "ETag": "x"}

    async def _cat_file(self, path: str, **part: int | None) -> bytes:
        await asyncio.sleep(3600)
        return b"never"


class Failing(Stalling):
    """Fails once, comes short once, then answers."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[object] = [ConnectionResetError("reset"), b"shor", b"whole"]

    async def _cat_file(self, path: str, **part: int | None) -> bytes:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, bytes)
        return answer


def test_a_read_that_stalls_is_cut_off() -> None:
    storage = FsspecStorage("s3")
    storage._made = Stalling()
    with pytest.raises(StorageError) as caught:
        storage.read("s3://bucket/x", timeout=0.2)
    assert caught.value.transient


def test_failures_and_short_reads_are_tried_again() -> None:
    storage = FsspecStorage("s3")
    storage._made = Failing()
    assert storage.read("s3://bucket/x", timeout=20.0) == (b"whole", "x")


@pytest.mark.parametrize(
    ("scheme", "module", "hint"),
    [
        ("memory", "fsspec", r"memory:// needs `pip install 'caption-images\[fsspec\]'`: "),
        ("abfs", "adlfs", r"abfs:// needs `pip install 'caption-images\[fsspec\]'` and `pip install adlfs`"),
        ("s3", "s3fs", r"s3:// needs `pip install 'caption-images\[fsspec\]'`: "),
    ],
)
def test_missing_packages(scheme: str, module: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # an import of it fails
    registry: Any = importlib.import_module("fsspec.registry")
    monkeypatch.delitem(registry._registry, scheme, raising=False)
    with pytest.raises(UnknownSchemeError, match=hint):
        FsspecStorage(scheme).read(f"{scheme}://bucket/x")
