"""Limits of bytes hold while bytes arrive and while they are decompressed; memory is measured, not believed."""

from __future__ import annotations

import contextlib
import gzip
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from beam_job.inputs.filters import Filters
from beam_job.loading.images import fetch
from beam_job.records import Failure, ImageInput
from beam_job.storage import OPTIONS, Allowed, GoogleCloudStorage, HttpStorage, LocalStorage, TooLargeError
from tests.fault_server import FaultServer, Handler, Step, ok, serve, stored

LIMIT = 1_000_000
BOMB = gzip.compress(bytes(100_000_000))
ALLOWED = Allowed(("http", "file"), ("/",), private_addresses=True)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    with serve() as faults:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", faults.address)
        yield faults


@contextlib.contextmanager
def flat(limit: int = 20 * LIMIT) -> Iterator[None]:
    """Fails where the block held more bytes at some moment."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit


def endless(headers: dict[str, str]) -> Step:
    """Zeros without an end and without a length."""

    def step(handler: Handler) -> None:
        handler.head(200, headers)
        handler.close_connection = True
        while not handler.faults.stopping.is_set():
            handler.body(bytes(1 << 16))

    return step


def test_four_gzip_bombs_at_once_take_no_memory(server: FaultServer) -> None:
    for number in range(4):
        server.script(f"{number}.jpg", ok(BOMB, {**stored(BOMB), "Content-Encoding": "gzip"}))
    images = [ImageInput(f"{server.address}/{number}.jpg") for number in range(4)]
    with flat(), ThreadPoolExecutor(4) as pool:
        failures = list(pool.map(lambda image: fetch(image, 60.0, ALLOWED, Filters(max_bytes=LIMIT)), images))
    for failure in failures:
        assert isinstance(failure, Failure)
        assert (failure.error_type, failure.retry_when) == ("TooLarge", OPTIONS)
        assert failure.error_message.endswith("bytes are more than --max_bytes=1000000")


@pytest.mark.parametrize("scheme", ["gs", "http"])
@pytest.mark.parametrize("kind", ["bomb", "bomb of bombs", "endless", "announced"])
def test_no_read_holds_more_than_its_limit(server: FaultServer, scheme: str, kind: str) -> None:
    packed = {"Content-Encoding": "gzip"}
    steps = {
        "bomb": ok(BOMB, {**stored(BOMB), **packed}),
        "bomb of bombs": ok(BOMB[:20_000] * 3, {**stored(BOMB[:20_000] * 3), **packed}),
        "endless": endless({"x-goog-generation": "1"}),
        "announced": endless({"Content-Length": "1000000000000"}),
    }
    server.script("x.jpg", steps[kind])
    storage = GoogleCloudStorage() if scheme == "gs" else HttpStorage()
    with flat(), pytest.raises(TooLargeError) as caught:
        storage.read("gs://bucket/x.jpg" if scheme == "gs" else f"{server.address}/x.jpg", max_bytes=LIMIT)
    assert (caught.value.cause, caught.value.retry_when, caught.value.transient) == ("TooLarge", OPTIONS, False)
    assert caught.value.size > LIMIT
    assert len(server.asked) == 1
    storage.close()


@pytest.mark.parametrize("offset", [None, 5])
def test_local_files(tmp_path: Path, offset: int | None) -> None:
    with (tmp_path / "x.jpg").open("wb") as file:
        file.truncate(1 << 40)  # a hole
    size = None if offset is None else 1 << 39
    with flat(), pytest.raises(TooLargeError) as caught:
        LocalStorage().read(str(tmp_path / "x.jpg"), size=size, offset=offset, max_bytes=LIMIT)
    assert caught.value.size == (size or 1 << 40)
    with flat(), pytest.raises(TooLargeError):  # without a limit of the caller's, too
        LocalStorage().read(str(tmp_path / "x.jpg"), size=size, offset=offset)


def test_a_local_file_that_has_no_size(tmp_path: Path) -> None:
    """Files like those of /proc, which are regular files of no bytes by their metadata."""
    assert LocalStorage().read("/proc/self/status")[0].startswith(b"Name:")


def test_sizes_are_reported_as_they_become_known(server: FaultServer, tmp_path: Path) -> None:
    content = bytes(range(256)) * 2000
    packed = gzip.compress(content)
    server.script("announced.jpg", ok(content))
    server.script("packed.jpg", ok(packed, {**stored(packed), "Content-Encoding": "gzip"}))
    server.script("chunks.jpg", ok(content, {}))
    (tmp_path / "x.jpg").write_bytes(content)
    with contextlib.closing(HttpStorage()) as web:
        for name, first, last in (
            ("announced.jpg", len(content), len(content)),
            ("packed.jpg", len(packed), len(packed) + len(content)),
            ("chunks.jpg", None, len(content)),
        ):
            sizes: list[int] = []
            assert web.read(f"{server.address}/{name}", on_size=sizes.append)[0] == content
            assert sizes == sorted(set(sizes))
            assert first in (None, sizes[0])
            assert sizes[-1] == last
    sizes = []
    LocalStorage().read(str(tmp_path / "x.jpg"), on_size=sizes.append)
    assert sizes == [len(content)]
