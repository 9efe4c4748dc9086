"""Exclusive creation, writes and deletions where answers are lost, in a bucket that honours preconditions."""

from __future__ import annotations

import functools
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from beam_job.storage import GoogleCloudStorage, StorageError, gcs, storage_for
from beam_job.storage.retry import retrying
from tests.gcs_server import GcsServer

URI = "gs://bucket/folder/x"
FAULTS = {"no answer": None, "503 after success": 503, "500 after success": 500}


@pytest.fixture
def storage(gcs_server: GcsServer) -> GoogleCloudStorage:
    made = storage_for(URI)
    assert isinstance(made, GoogleCloudStorage)
    made._retrying = functools.partial(retrying, random=lambda: 0.02)
    return made


@pytest.fixture(params=["local", "bucket"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "bucket":
        request.getfixturevalue("storage")
    return URI if request.param == "bucket" else str(tmp_path / "folder" / "x")


def test_only_one_of_many_creates(uri: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda number: storage_for(uri).create(uri, b"%d" % number), range(8)))
    assert created.count(True) == 1
    assert storage_for(uri).read(uri)[0] == b"%d" % created.index(True)


def test_another_content_is_never_taken_for_ours(uri: str) -> None:
    assert storage_for(uri).create(uri, b"theirs")
    for ours in (b"ours", b"ours!!", b""):
        assert not storage_for(uri).create(uri, ours)
    assert storage_for(uri).create(uri, b"theirs")  # the answer to an earlier attempt may have been lost
    assert storage_for(uri).read(uri)[0] == b"theirs"


@pytest.mark.parametrize("status", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("data", [b"ours", b"ours" * (3 << 20)], ids=["one request", "resumable"])
def test_a_create_whose_answer_is_lost_succeeds(
    storage: GoogleCloudStorage, gcs_server: GcsServer, status: int | None, data: bytes
) -> None:
    gcs_server.fail("insert", "folder/*", status=status, applied=True, times=1)
    assert storage.create(URI, data)
    assert gcs_server.data("folder/x") == data


@pytest.mark.parametrize("status", FAULTS.values(), ids=FAULTS)
def test_a_create_that_lost_the_race_and_its_answer_fails(
    storage: GoogleCloudStorage, gcs_server: GcsServer, status: int | None
) -> None:
    gcs_server.put("folder/x", b"theirs")
    gcs_server.fail("insert", "folder/*", status=status, times=1)
    assert not storage.create(URI, b"ours")
    assert gcs_server.data("folder/x") == b"theirs"


def test_a_create_that_took_effect_before_all_answers_were_lost(
    storage: GoogleCloudStorage, gcs_server: GcsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcs, "CALL_S", 1.0)
    gcs_server.fail("insert", "folder/*", status=503, applied=True, times=1)
    gcs_server.fail("insert", "folder/*", status=503)
    assert storage.create(URI, b"ours")


@pytest.mark.parametrize("status", [None, 429, 503], ids=["reset", "429", "503"])
def test_a_bucket_that_refuses_for_ever_ends_a_call_within_its_deadline(
    gcs_server: GcsServer, monkeypatch: pytest.MonkeyPatch, status: int | None
) -> None:
    """On a clock that only waiting moves, so that a busy machine changes nothing."""
    now = [0.0]

    def wait(seconds: float) -> None:
        now[0] += seconds

    storage = storage_for(URI)
    assert isinstance(storage, GoogleCloudStorage)
    storage._retrying = functools.partial(retrying, clock=lambda: now[0], sleep=wait, random=lambda: 1.0)
    gcs_server.fail("insert", status=status)
    for call in (storage.create, storage.write):
        started = now[0]
        with pytest.raises(StorageError, match=r"attempts\)$") as caught:
            call(URI, b"ours")
        assert (caught.value.transient, caught.value.retry_when) == (True, "later")
        assert 30 < now[0] - started <= gcs.CALL_S == 60
    assert gcs_server.names() == []


def test_a_bucket_that_never_answers_ends_a_call_within_its_deadline(
    storage: GoogleCloudStorage, gcs_server: GcsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcs, "CALL_S", 1.0)
    never = threading.Event()
    gcs_server.fail("insert", status=200, until=never)
    started = time.monotonic()
    with pytest.raises(StorageError):
        storage.write(URI, b"ours")
    assert time.monotonic() - started < 30  # not the client's 60 s for each of several attempts
    never.set()


def test_writes_are_retried(storage: GoogleCloudStorage, gcs_server: GcsServer) -> None:
    gcs_server.fail("insert", status=503, times=3)
    storage.write(URI, b"ours")
    assert gcs_server.data("folder/x") == b"ours"


def test_a_delete_whose_answer_is_lost_succeeds(storage: GoogleCloudStorage, gcs_server: GcsServer) -> None:
    gcs_server.put("folder/x", b"")
    gcs_server.fail("delete", status=None, applied=True, times=1)
    storage.delete(URI)
    assert gcs_server.names() == []
    with pytest.raises(StorageError, match="404"):
        storage.delete(URI)


def test_the_time_of_a_file_is_that_of_the_storages_clock(uri: str, request: pytest.FixtureRequest) -> None:
    if uri == URI:
        server = request.getfixturevalue("gcs_server")
        server.clock = lambda: 1_000_000.25
        storage_for(uri).write(uri, b"x")
        assert storage_for(uri).stat(uri).modified == 1_000_000.25
    else:
        storage_for(uri).write(uri, b"x")
        os.utime(uri, (5, 1_000_000.25))
        assert storage_for(uri).stat(uri).modified == 1_000_000.25


def test_file_systems_without_hard_links_create_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    uri = str(tmp_path / "folder" / "x")
    test_only_one_of_many_creates(uri)
    assert os.listdir(tmp_path / "folder") == ["x"]


def test_temporary_files_of_other_processes_stay(tmp_path: Path) -> None:
    """Nobody can tell a killed process's file from one that is being written, or from the user's."""
    names = [".x.0123456789abcdef0123456789abcdef.tmp", "y.tmp"]
    for name in names:
        (tmp_path / name).write_bytes(b"theirs")
    storage_for(str(tmp_path)).write(str(tmp_path / "x"), b"ours")
    assert storage_for(str(tmp_path)).create(str(tmp_path / "y"), b"ours")
    assert sorted(os.listdir(tmp_path)) == [*names[:1], "x", "y", "y.tmp"]
