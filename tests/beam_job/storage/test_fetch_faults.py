"""What servers and networks do wrong, through both storages that stream bodies: right bytes, or the right error."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from beam_job.storage import GoogleCloudStorage, HttpStorage, StorageError
from beam_job.storage.retry import retrying
from tests.fault_server import (
    FaultServer,
    Step,
    broken_chunk,
    cut,
    drip,
    drip_headers,
    flipped,
    ok,
    reset,
    serve,
    stall,
    status,
)

DATA = bytes(range(256)) * 1200  # more than one chunk of the reader
SOON = functools.partial(retrying, random=lambda: 0.02)
# A wait that outlasts every deadline: the first error is the last.
ONCE = functools.partial(retrying, random=lambda: 1e9)


@dataclass
class Place:
    """A storage, and the names of things on the fault server in its URIs."""

    storage: GoogleCloudStorage | HttpStorage
    root: str
    server: FaultServer

    def read(self, *steps: Step, timeout: float = 10.0) -> bytes:
        self.server.script("x.jpg", *steps)
        return self.storage.read(f"{self.root}/x.jpg", timeout=timeout)[0]


@pytest.fixture(params=["gs", "http"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with serve() as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.address)
        storage = GoogleCloudStorage(SOON) if request.param == "gs" else HttpStorage(SOON)
        yield Place(storage, "gs://bucket" if request.param == "gs" else server.address, server)
        storage.close()


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param([], id="none"),
        pytest.param([status(503), status(500), status(502)], id="5xx"),
        pytest.param([status(408)], id="408"),
        pytest.param([status(429, {"Retry-After": "0"})], id="429"),
        pytest.param([reset(DATA, 100_000)], id="reset"),
        pytest.param([reset(DATA, 0)], id="reset-before-the-body"),
        pytest.param([cut(DATA, 300_000), cut(DATA, 0)], id="cut"),
        pytest.param([broken_chunk(DATA[:1000])], id="broken-chunk"),
    ],
)
def test_what_passes_is_tried_again(place: Place, faults: list[Step]) -> None:
    assert place.read(*faults, ok(DATA)) == DATA
    assert len(place.server.asked) == len(faults) + 1
    assert not any("range" in headers for _, _, headers in place.server.asked)  # from the start, never resumed


@pytest.mark.parametrize(
    ("step", "cause"),
    [
        pytest.param(status(503), "ServiceUnavailable", id="503"),
        pytest.param(status(429, {"Retry-After": "3600"}), "TooManyRequests", id="429-for-an-hour"),
        pytest.param(status(503, {"Retry-After": "Fri, 01 Jan 2100 00:00:00 GMT"}), "ServiceUnavailable", id="date"),
        pytest.param(cut(DATA, 1000), "IncompleteRead", id="cut"),
        pytest.param(reset(DATA, 1000), "ConnectionResetError", id="reset"),
        pytest.param(drip(DATA), "TimeoutError", id="drip"),
        pytest.param(drip_headers(), "TimeoutError", id="drip-in-the-headers"),
        pytest.param(stall, "TimeoutError", id="stall"),
    ],
)
def test_what_does_not_pass_is_transient(place: Place, step: Step, cause: str) -> None:
    outcome: list[StorageError] = []
    if cause != "TimeoutError":
        place.storage._retrying = ONCE

    def read() -> None:
        with pytest.raises(StorageError) as caught:
            place.read(step, timeout=0.5 if cause == "TimeoutError" else 30.0)
        outcome.append(caught.value)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(20)  # a drip would go on for hours
    assert outcome, "the deadline did not end the read"
    [error] = outcome
    assert (error.transient, error.cause) == (True, cause)
    assert str(error).startswith(f"{place.root}/x.jpg: ")
    assert str(error).endswith(("attempt)", "attempts)"))
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (400, "BadRequest"),
        (403, "Forbidden"),
        (404, "NotFound"),
        (410, "Gone"),
        (412, "PreconditionFailed"),
        (302, "Found"),
        (204, "NoContent"),
    ],
)
def test_refusals_are_permanent(place: Place, code: int, cause: str) -> None:
    with pytest.raises(StorageError, match=f"x.jpg: {code} ") as caught:
        place.read(status(code), ok(DATA))
    assert (caught.value.transient, caught.value.cause) == (False, cause)
    assert len(place.server.asked) == 1


def test_nobody_is_let_in_without_credentials(place: Place) -> None:
    with pytest.raises(StorageError, match=r"401 Unauthorized|credentials cannot be refreshed\.; log in") as caught:
        place.read(status(401))
    assert not caught.value.transient


def test_nobody_listens(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    root = "gs://bucket" if place.root.startswith("gs") else "http://127.0.0.1:9"
    with pytest.raises(StorageError, match="Connection refused") as caught:
        place.storage.read(f"{root}/x.jpg", timeout=0.2)
    assert (caught.value.transient, caught.value.cause) == (True, "ConnectionRefusedError")


def test_a_timeout_of_nothing_is_an_error(place: Place) -> None:
    with pytest.raises(StorageError) as caught:
        place.read(ok(DATA), timeout=0.0)
    assert caught.value.transient


def test_32_threads_share_the_connections(place: Place) -> None:
    place.server.script("x.jpg", ok(DATA))
    with ThreadPoolExecutor(32) as pool:
        everything = list(pool.map(lambda _: place.read(ok(DATA)), range(128)))
    assert everything == [DATA] * 128
    assert place.server.connections <= 32


def test_flipped_bytes(place: Place) -> None:
    """Google sends a checksum; of a web server's body nobody knows what it should be."""
    if place.root.startswith("gs"):
        assert place.read(flipped(DATA), ok(DATA)) == DATA
        place.storage._retrying = ONCE
        with pytest.raises(StorageError, match="crc32c") as caught:
            place.read(flipped(DATA))
        assert (caught.value.transient, caught.value.cause) == (True, "ChecksumMismatch")
    else:
        assert place.read(flipped(DATA), ok(DATA)) != DATA
