"""Only bytes that were read and found bad are permanent: all else is tried again, later or with other options."""

from __future__ import annotations

import builtins
import errno
import functools
import importlib
import io
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from beam_job.storage import (
    CONTENT,
    LATER,
    OPTIONS,
    CredentialsError,
    GoogleCloudStorage,
    HttpStorage,
    LocalStorage,
    StorageError,
)
from beam_job.storage.fsspec_storage import FsspecStorage
from beam_job.storage.retry import retrying
from tests.fault_server import FaultServer, serve, status

# A wait that outlasts every deadline: the first error is the last.
ONCE = functools.partial(retrying, random=lambda: 1e9)
SYSTEM = [
    *((code, LATER) for code in ("ENOENT", "ENOTDIR", "EIO", "ESTALE", "ENOTCONN", "EMFILE", "ENFILE", "ENOMEM")),
    *((code, LATER) for code in ("ENODEV", "ENXIO", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "EREMOTEIO", "ELOOP")),
    *((code, OPTIONS) for code in ("EACCES", "EPERM")),
    ("ENAMETOOLONG", CONTENT),
]
STATUS = [
    *((code, LATER) for code in (400, 404, 408, 410, 412, 416, 429, 451, 500, 502, 503, 504)),
    *((code, OPTIONS) for code in (401, 403)),
]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    with serve() as faults:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", faults.address)
        yield faults


@pytest.mark.parametrize(("code", "expected"), SYSTEM)
@pytest.mark.parametrize("call", ["stat", "open"])
def test_local_errors(code: str, expected: str, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(b"image")
    real = getattr(os, call)

    def fail(name: Any, *rest: Any, **options: Any) -> Any:
        if str(name) == str(path):
            number = getattr(errno, code)
            raise OSError(number, os.strerror(number), name)
        return real(name, *rest, **options)

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StorageError) as caught:
        LocalStorage(ONCE).read(str(path))
    assert caught.value.retry_when == expected
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), MemoryError()], ids=["disk", "memory"])
def test_an_error_while_a_local_file_is_read(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.jpg").write_bytes(b"image")

    class Failing(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            raise error

    monkeypatch.setattr("beam_job.storage.regular_file.os.fdopen", Failing)
    with pytest.raises(StorageError) as caught:
        LocalStorage(ONCE).read(str(tmp_path / "x.jpg"))
    assert caught.value.retry_when == LATER


@pytest.mark.parametrize(("code", "expected"), STATUS)
@pytest.mark.parametrize("scheme", ["gs", "http"])
def test_http_statuses(code: int, expected: str, scheme: str, server: FaultServer) -> None:
    storage = GoogleCloudStorage(ONCE) if scheme == "gs" else HttpStorage(ONCE)
    server.script("x.jpg", status(code))
    with pytest.raises(StorageError) as caught:
        storage.read("gs://bucket/x.jpg" if scheme == "gs" else f"{server.address}/x.jpg")
    assert caught.value.retry_when == expected
    assert isinstance(caught.value, CredentialsError) == (scheme == "gs" and code == 401)
    storage.close()


@pytest.mark.parametrize(("code", "expected"), [(401, OPTIONS), (403, OPTIONS), (404, LATER), (503, LATER)])
@pytest.mark.parametrize("call", ["stat", "list", "exists", "write"])
def test_calls_of_google(code: int, expected: str, call: str, server: FaultServer) -> None:
    storage = GoogleCloudStorage(ONCE)
    server.otherwise = status(code)
    if code == 503 and call == "list":
        return  # the client's own retries of a page last for a minute
    if code == 404 and call == "exists":
        assert not storage.exists("gs://bucket/x.jpg")
        return
    arguments = ("gs://bucket/x/", b"") if call == "write" else ("gs://bucket/x/",)
    with pytest.raises(StorageError) as caught:
        list(getattr(storage, call)(*arguments))
    assert caught.value.retry_when == expected
    assert isinstance(caught.value, CredentialsError) == (code == 401)
    storage.close()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(socket.gaierror(socket.EAI_NONAME, "Name or service not known"), LATER, id="unknown host"),
        pytest.param(socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), LATER, id="no name service"),
        pytest.param(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), LATER, id="refused"),
        pytest.param(OSError(errno.ENETUNREACH, "Network is unreachable"), LATER, id="no network"),
        pytest.param(ssl.SSLCertVerificationError(1, "certificate has expired"), LATER, id="certificate"),
        pytest.param(requests.exceptions.InvalidURL("no URL"), CONTENT, id="no URL"),
    ],
)
def test_connections(error: Exception, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        if isinstance(error, requests.RequestException):
            raise error
        raise requests.ConnectionError from error

    monkeypatch.setattr(requests.Session, "request", fail)
    with pytest.raises(StorageError) as caught:
        HttpStorage(ONCE).read("https://photos.example/x.jpg")
    assert caught.value.retry_when == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (builtins.FileNotFoundError("no such key"), LATER),
        (builtins.PermissionError("Access Denied"), OPTIONS),
        (builtins.IsADirectoryError("a folder"), CONTENT),
        (builtins.OSError(errno.EIO, "We encountered an internal error"), LATER),
        (builtins.TimeoutError("read timed out"), LATER),
        (builtins.ValueError("no such container"), LATER),
    ],
)
def test_fsspec(error: Exception, expected: str) -> None:
    pytest.importorskip("fsspec", reason="needs the extra fsspec")

    class Failing(importlib.import_module("fsspec").AbstractFileSystem):  # type: ignore[misc]
        async_impl = False
        cachable = False

        def info(self, path: str, **_: Any) -> dict[str, Any]:
            raise error

    storage = FsspecStorage("s3", ONCE)
    storage._made = Failing()
    with pytest.raises(StorageError) as caught:
        storage.read("s3://bucket/x.jpg")
    assert caught.value.retry_when == expected


@pytest.mark.parametrize("uri", ["file:///a%00b.jpg", "http://h:x/", "gs:///x.jpg", "file://another-host/x.jpg"])
def test_names_that_can_never_be_read(uri: str, server: FaultServer) -> None:
    storage = {"file": LocalStorage, "http": HttpStorage, "gs": GoogleCloudStorage}[uri.partition(":")[0]]()
    with pytest.raises(StorageError) as caught:
        storage.read(uri)
    assert (caught.value.retry_when, caught.value.transient) == (CONTENT, False)


def test_a_mount_that_goes_while_it_is_listed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder deleted in the meantime is passed over; when all of it has gone, no image may be lost silently."""
    for name in ("a", "b", "c"):
        (tmp_path / "mount" / name).mkdir(parents=True)
        (tmp_path / "mount" / name / "x.jpg").write_bytes(b"image")
    storage = LocalStorage()
    found = storage.list(str(tmp_path / "mount"))
    assert next(found).uri.endswith("a/x.jpg")
    (tmp_path / "mount" / "b").rename(tmp_path / "b")
    assert [stored.uri for stored in found] == [str(tmp_path / "mount" / "c" / "x.jpg")]
    found = storage.list(str(tmp_path / "mount"))
    assert next(found).uri.endswith("a/x.jpg")
    (tmp_path / "mount").rename(tmp_path / "gone")
    with pytest.raises(StorageError):
        list(found)


@pytest.mark.parametrize("call", ["exists", "is_folder"])
def test_what_cannot_be_known_is_an_error(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: Any, *_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    monkeypatch.setattr(os, "stat", fail)
    with pytest.raises(StorageError, match="not connected"):
        getattr(LocalStorage(), call)(str(tmp_path / "x"))
