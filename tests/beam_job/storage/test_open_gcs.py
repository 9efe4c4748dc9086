"""Lists in Google Cloud Storage are opened whole and checked, or not at all; real emulator and fault server."""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
from collections.abc import Iterator

import pytest

from beam_job.inputs.listing import InputError, list_images
from beam_job.storage import GoogleCloudStorage, StorageError, storage_for
from beam_job.storage.checksum import crc32c_of
from beam_job.storage.retry import retrying
from tests.fault_server import FaultServer, Step, cut, flipped, ok, reset, serve, status, stored


def test_an_opened_list_is_a_copy_that_outlives_the_object(bucket) -> None:
    uri = f"gs://{bucket.name}/list.txt"
    storage = storage_for(uri)
    storage.write(uri, b"one\ntwo\n" * 100_000)
    with storage.open(uri) as file:
        assert file.readline() == b"one\n"
        storage.delete(uri)
        assert len(file.read()) == 8 * 100_000 - 4
    with pytest.raises(StorageError, match="404"):
        storage.open(uri)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    with serve() as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.address)
        yield server


def resource(data: bytes) -> Step:
    """An object's metadata, as JSON."""
    fields = {"name": "list.csv", "generation": "7", "size": str(len(data)), "crc32c": crc32c_of(data)}
    return status(200, {"Content-Type": "application/json"}, json.dumps(fields).encode())


LIST = b"uri\n" * 1000
DAMAGES = {
    "flipped": flipped(LIST),
    "cut": cut(LIST, 900),
    "reset": reset(LIST, 900),
    "server error": status(503),
    "another content": ok(LIST[:-4] + b"URI\n"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_list_that_comes_damaged_is_asked_for_again_or_an_error(damage: str, faults: FaultServer) -> None:
    faults.script("list.csv", resource(LIST), DAMAGES[damage], ok(LIST, stored(LIST, "7")))
    with contextlib.closing(GoogleCloudStorage(functools.partial(retrying, random=lambda: 0.02))) as storage:
        with storage.open("gs://bucket/list.csv") as file:
            assert file.read() == LIST
        assert [path.partition("?")[2] for _, path, _ in faults.asked[1:]] == ["alt=media&generation=7"] * 2
    faults.script("list.csv", resource(LIST), DAMAGES[damage])
    with contextlib.closing(GoogleCloudStorage(functools.partial(retrying, random=lambda: 1e9))) as storage:
        with pytest.raises(StorageError, match=r"^gs://bucket/list\.csv: ") as caught:
            storage.open("gs://bucket/list.csv")
        assert caught.value.transient


def test_a_list_that_is_stored_with_gzip_is_unpacked(faults: FaultServer) -> None:
    packed = gzip.compress(LIST, mtime=0)
    headers = {**stored(packed, "7"), "Content-Encoding": "gzip"}
    with contextlib.closing(GoogleCloudStorage()) as storage:
        faults.script("list.csv", resource(packed), ok(packed, headers))
        with storage.open("gs://bucket/list.csv") as file:
            assert file.read() == LIST
        faults.script("list.csv", resource(LIST), ok(LIST, {**stored(LIST, "7"), "Content-Encoding": "gzip"}))
        with storage.open("gs://bucket/list.csv") as file:  # it is called gzip, and is not
            assert file.read() == LIST
        cut = packed[:-9]
        faults.script("list.csv", resource(cut), ok(cut, {**stored(cut, "7"), "Content-Encoding": "gzip"}))
        with pytest.raises(StorageError, match="its gzip encoding is damaged") as caught:
            storage.open("gs://bucket/list.csv")
        assert not caught.value.transient


def test_a_damaged_list_is_an_error_of_the_input(faults: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(GoogleCloudStorage(functools.partial(retrying, random=lambda: 1e9))) as storage:
        faults.script("list.csv", *[resource(LIST)] * 4, flipped(LIST))
        for module in ("listing", "lists", "list_formats"):
            monkeypatch.setattr(f"beam_job.inputs.{module}.storage_for", lambda uri: storage)
        with pytest.raises(InputError, match=r"^--input: gs://bucket/list\.csv: crc32c .* instead of"):
            list(list_images(["gs://bucket/list.csv"]))
