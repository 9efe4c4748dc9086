"""Other clouds through fsspec: its memory, and S3 spoken by moto's server."""

from __future__ import annotations

import asyncio
import importlib
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from beam_job import storage
from beam_job.cli.command import main
from beam_job.inputs.filters import Filters
from beam_job.inputs.listing import allowed_places, list_images
from beam_job.loading.images import FetchedImage, fetch
from beam_job.records import Failure, ImageInput
from beam_job.storage import CredentialsError, StorageError, TooLargeError, UnknownSchemeError, storage_for
from beam_job.storage.fsspec_storage import FsspecStorage
from tests.fakes import FakeCaptioner

pytest.importorskip("fsspec", reason="needs the extra fsspec")
NAMES = ("a.jpg", "sub/b.jpg", "sub/d.txt")


@pytest.fixture(params=["memory", "s3", "s3a"])
def root(request: pytest.FixtureRequest) -> Iterator[str]:
    """A folder with three files."""
    fsspec: Any = importlib.import_module("fsspec")
    if request.param != "memory":
        request.getfixturevalue("s3_server")
    files = fsspec.filesystem(request.param, use_listings_cache=False)
    bucket = f"bucket-{uuid.uuid4().hex}"
    files.mkdir(f"/{bucket}" if request.param == "memory" else bucket)
    root = f"memory:///{bucket}/folder" if request.param == "memory" else f"{request.param}://{bucket}/folder"
    for name in NAMES:
        files.pipe_file(f"{root}/{name}", name.encode())
    yield root
    files.rm(root.rpartition("/")[0], recursive=True)


def test_list(root: str) -> None:
    files = storage_for(root)
    assert [found.uri for found in files.list(root)] == [f"{root}/{name}" for name in NAMES]
    assert [found.uri for found in files.list(f"{root}/**/*.jpg")] == [f"{root}/a.jpg", f"{root}/sub/b.jpg"]
    assert [found.uri for found in files.list(f"{root}/a.jpg")] == [f"{root}/a.jpg"]
    assert list(files.list(f"{root}/missing")) == []
    assert files.is_folder(f"{root}/sub")
    assert not files.is_folder(f"{root}/a.jpg")


def test_listed_told_and_read_versions_agree(root: str) -> None:
    files = storage_for(root)
    uri = f"{root}/a.jpg"
    [listed] = files.list(uri)
    assert listed == files.stat(uri)
    assert listed.size == 5
    assert files.read(uri) == files.read(uri, "another", 5.0, 99, "AAAAAA==") == (b"a.jpg", listed.version)


def test_another_content_has_another_version(root: str) -> None:
    uri = f"{root}/a.jpg"
    files = storage_for(root)
    before = files.read(uri)
    files._fs.pipe_file(uri, b"other")
    after = files.read(uri)
    assert after[0] == b"other"
    assert after[1] != before[1]


def test_open_and_exists(root: str) -> None:
    files = storage_for(root)
    with files.open(f"{root}/a.jpg") as file:
        file.seek(2)
        assert file.read() == b"jpg"
    assert files.exists(f"{root}/a.jpg")
    assert not files.exists(f"{root}/missing.jpg")


@pytest.mark.parametrize("name", ["missing.jpg", "sub"])
def test_what_is_no_file(root: str, name: str) -> None:
    with pytest.raises(StorageError, match=name) as caught:
        storage_for(root).read(f"{root}/{name}")
    assert not caught.value.transient
    assert caught.value.cause in ("FileNotFoundError", "IsADirectoryError")


def test_files_above_the_limit_are_not_read(root: str) -> None:
    sizes: list[int] = []
    assert storage_for(root).read(f"{root}/a.jpg", max_bytes=5, on_size=sizes.append)[0] == b"a.jpg"
    with pytest.raises(TooLargeError):
        storage_for(root).read(f"{root}/a.jpg", max_bytes=4, on_size=sizes.append)
    assert sizes == [5]


def test_the_scheme_stays_as_it_was_given_and_is_allowed(root: str) -> None:
    """A listing that turned s3a into s3 would yield URIs that the run may not read."""
    capitals = root.replace(root.partition(":")[0], root.partition(":")[0].upper(), 1)
    for given in (root, capitals):
        allowed = allowed_places([given])
        [batch] = list_images([given])
        for uri in batch["uri"].to_pylist():
            assert uri.startswith(f"{root}/")
            found = fetch(ImageInput(uri), 30.0, allowed, Filters())
            assert not isinstance(found, Failure), found


@pytest.mark.parametrize("root", ["memory"], indirect=True)
def test_no_output(root: str) -> None:
    for method in (storage_for(root).create, storage_for(root).write):
        with pytest.raises(StorageError, match="is read-only; name a local folder, or a gs:// or s3:// bucket"):
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


@pytest.mark.parametrize("scheme", ["az", "abfs"])
@pytest.mark.parametrize("authority", ["container", "container@account.dfs.core.windows.net"])
def test_azure_keeps_the_scheme_and_the_container_as_given(
    scheme: str, authority: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in that names files as adlfs does: `abfs` for all schemes, and without the account."""
    memory: Any = importlib.import_module("fsspec.implementations.memory").MemoryFileSystem

    class Azure(memory):
        protocol = ("abfs", "az", "abfss")
        root_marker = ""
        store: ClassVar[dict[str, Any]] = {}
        pseudo_dirs: ClassVar[list[str]] = [""]

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            container, slash, rest = path.rpartition("://")[2].strip("/").partition("/")
            return "/" + container.partition("@")[0] + slash + rest if container else ""

        def unstrip_protocol(self, name: str) -> str:
            return "abfs:/" + name

    Azure().pipe_file("/container/folder/a.jpg", b"image")
    monkeypatch.setattr("beam_job.storage.fsspec_storage._file_system", lambda scheme: Azure())
    monkeypatch.setattr(storage, "_storage", FsspecStorage)
    for given in (f"{scheme}://{authority}/folder", f"{scheme}://{authority}/folder/*.jpg"):
        allowed = allowed_places([given])
        [batch] = list_images([given])
        assert batch["uri"].to_pylist() == [f"{scheme}://{authority}/folder/a.jpg"]
        found = fetch(ImageInput(batch["uri"][0].as_py()), 30.0, allowed, Filters())
        assert isinstance(found, FetchedImage), found
        assert found.data == b"image"


@pytest.fixture
def no_credentials(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody is logged in at the S3 server."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    files: Any = importlib.import_module("s3fs").S3FileSystem
    storage._storage.cache_clear()  # clients remember the credentials that they were made with
    files.clear_instance_cache()
    yield
    storage._storage.cache_clear()
    files.clear_instance_cache()


@pytest.mark.parametrize("call", ["read", "stat", "list", "exists", "is_folder", "open"])
def test_s3_without_credentials_stops_the_run(no_credentials: None, call: str) -> None:
    with pytest.raises(CredentialsError, match=r"credentials.*; run `aws configure`"):
        list(getattr(storage_for("s3://bucket/x.jpg"), call)("s3://bucket/x.jpg"))


@pytest.mark.parametrize("scheme", ["s3", "s3a"])
def test_s3_without_credentials_records_no_image_as_failed(
    scheme: str, no_credentials: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    monkeypatch.setattr("beam_job.captioning.caption_shards.load_captioner", lambda *_: FakeCaptioner())
    (tmp_path / "list.txt").write_text("".join(f"{scheme}://bucket/{number}.jpg\n" for number in range(20)))
    arguments = [f"--input={tmp_path}/list.txt", f"--output={tmp_path}/out"]
    assert main([*arguments, f"--allow_buckets={scheme}://bucket"]) != 0
    printed = [line for line in capfd.readouterr().err.splitlines() if line.startswith("caption-images: ")]
    assert len(printed) == 1
    assert "aws configure" in printed[0]
    assert list(tmp_path.glob("out/failures/**/*.parquet")) == []


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"])
def test_credentials_that_s3_does_not_accept(code: str) -> None:
    exceptions: Any = importlib.import_module("botocore.exceptions")
    refusal = exceptions.ClientError({"Error": {"Code": code, "Message": "refused"}}, "GetObject")

    class Refusing(Stalling):
        async def _cat_file(self, path: str, **part: int | None) -> bytes:
            raise PermissionError("refused") from refusal

    made = FsspecStorage("s3")
    made._made = Refusing()
    with pytest.raises(CredentialsError):
        made.read("s3://bucket/x")


def test_azure_without_an_account_is_not_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_account(**_: object) -> None:
        raise ValueError("Must provide either a connection_string or account_name with credentials!!")

    fsspec: Any = importlib.import_module("fsspec")
    monkeypatch.setattr(fsspec, "get_filesystem_class", lambda scheme: no_account)
    with pytest.raises(CredentialsError, match="set AZURE_STORAGE_ACCOUNT_NAME"):
        FsspecStorage("az").read("az://container/x")


def test_a_read_that_stalls_is_cut_off() -> None:
    files = FsspecStorage("s3")
    files._made = Stalling()
    with pytest.raises(StorageError) as caught:
        files.read("s3://bucket/x", timeout=0.2)
    assert caught.value.transient


def test_failures_and_short_reads_are_tried_again() -> None:
    files = FsspecStorage("s3")
    files._made = Failing()
    assert files.read("s3://bucket/x", timeout=20.0) == (b"whole", "x")


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
