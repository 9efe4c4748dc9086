"""Decoding in processes of its own: the same pixels, and what becomes of images that break their decoder."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beam_job.loading.decode_pool import DecodePool, DecoderError, DecoderStartError
from beam_job.loading.images import FetchedImage, decode
from beam_job.records import Failure, ImageInput
from beam_job.storage import CONTENT, LATER, OPTIONS
from model import ImageError, load_image
from tests.images import EPS, PNG_BOMB, TEXT_BOMB, TILE_BOMB, encode, encode_heic, gif_bomb, halves, jpeg_bomb, tiff

SIZE = 8
PNG = encode(halves("red", "blue"), "PNG")
JPEG = encode(halves("red", "blue"), "JPEG")

# A decoder that does what its image says.
HOOKED = """
import os, signal, time
from beam_job.loading import decode_worker

def load(data, *rest, really=decode_worker.load_image):
    if data == b"abort":
        os.abort()
    if data == b"killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if data == b"exit":
        os._exit(3)
    if data == b"hang":
        signal.pause()
    if data == b"greedy":
        bytearray(10**9)
    if data.startswith(b"dies once "):
        mark = data.removeprefix(b"dies once ")
        if not os.path.exists(mark):
            open(mark, "w").close()
            os.abort()
        data = open(mark + b".png", "rb").read()
    if data == b"pid":
        raise decode_worker.ImageError(str(os.getpid()))
    os.write(0, b"noise")
    os.write(1, b"noise")
    os.write(2, b"noise")
    return really(data, *rest)

decode_worker.load_image = load
decode_worker.main()
"""


@contextlib.contextmanager
def pool_of(workers: int = 1, **options) -> Iterator[DecodePool]:
    pool = DecodePool(workers, SIZE, **options)
    try:
        yield pool
    finally:
        pool.close()


@pytest.fixture(scope="module")
def plain() -> Iterator[DecodePool]:
    """One real process, for images that do it no harm."""
    with pool_of() as pool:
        yield pool


def pid_of(pool: DecodePool) -> int:
    """The process that the next image goes to."""
    with pytest.raises(ImageError) as told:
        pool.load(b"pid")
    return int(str(told.value))


def has_ended(pid: int) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").exists() and ") Z " in Path(f"/proc/{pid}/stat").read_text():
            return True  # its new parent has not buried it yet
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIC"])
def test_a_process_gives_the_same_pixels(kind: str, plain: DecodePool) -> None:
    image = Image.effect_noise((90, 70), 60).convert("RGB")
    data = encode_heic(image) if kind == "HEIC" else encode(image, kind)
    apart, here = plain.load(data), load_image(data, SIZE)
    np.testing.assert_array_equal(apart.pixels, here.pixels)
    assert apart.pixels.dtype == np.uint8
    assert (apart.width, apart.height) == (90, 70)


def test_a_process_starts_without_beam_arrow_and_tensorflow() -> None:
    heavy = "{'apache_beam', 'pyarrow', 'tensorflow'}"
    program = f"import sys, beam_job.loading.decode_worker; print(sys.modules.keys() & {heavy})"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "set()\n"


def test_plain_jpegs_need_no_process() -> None:
    with pool_of(program="raise SystemExit('never')") as pool:
        np.testing.assert_array_equal(pool.load(JPEG).pixels, load_image(JPEG, SIZE).pixels)
        with pytest.raises(DecoderStartError):
            pool.load(PNG)


def test_a_system_without_room_for_a_process_is_not_the_images_fault_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pool_of() as pool, pytest.raises(DecoderStartError, match=r"could be started: .*/no/such/python"):
        pool.load(PNG)


def test_an_environment_without_workers_is_not_the_images_fault() -> None:
    with pool_of(program="import no_such_module") as pool:
        outcome = decode(FetchedImage(ImageInput("x.png"), PNG, "v1"), pool)
    assert isinstance(outcome, Failure)
    assert (outcome.stage, outcome.transient) == ("decode", True)
    assert outcome.error_message == (
        "no process for decoding could be started: ModuleNotFoundError: No module named 'no_such_module'"
    )


@pytest.mark.parametrize(
    ("data", "message", "retry_when"),
    [
        pytest.param(b"abort", "the decoder died twice (signal 6, SIGABRT)", CONTENT, id="abort"),
        pytest.param(b"exit", "the decoder died twice (exit code 3)", CONTENT, id="exit"),
        # A busy host is slow, and kills the largest process when memory is short.
        pytest.param(b"killed", "the decoder died twice (signal 9, SIGKILL)", LATER, id="killed"),
        pytest.param(b"hang", "decoding took longer than 1 s", LATER, id="hang"),
        pytest.param(b"greedy", "decoding needs more than 400 MB of memory", LATER, id="greedy"),
    ],
)
def test_an_image_that_breaks_its_decoder_costs_itself_alone(data: bytes, message: str, retry_when: str) -> None:
    with pool_of(program=HOOKED, seconds=1, memory=400 * 2**20) as pool:
        before = pid_of(pool)
        outcome = decode(FetchedImage(ImageInput("x.png"), data, "v1"), pool)
        assert isinstance(outcome, Failure)
        assert (outcome.uri, outcome.stage, outcome.object_version) == ("x.png", "decode", "v1")
        assert outcome.error_type == ("DecoderLimitError" if retry_when == LATER else "DecoderError")
        assert (outcome.error_message, outcome.retry_when) == (message, retry_when)
        assert has_ended(before)
        np.testing.assert_array_equal(pool.load(PNG).pixels, load_image(PNG, SIZE).pixels)


@pytest.mark.parametrize(
    ("data", "error_type", "retry_when"),
    [
        pytest.param(PNG_BOMB, "TooManyPixelsError", OPTIONS, id="--max_pixels"),
        pytest.param(jpeg_bomb(), "TooManyPixelsError", OPTIONS, id="--max_pixels, JPEG"),
        pytest.param(gif_bomb(), "TooManyPixelsError", OPTIONS, id="--max_pixels, GIF"),
        pytest.param(PNG[:50], "ImageError", CONTENT, id="cut"),
        pytest.param(b"no picture", "ImageError", CONTENT, id="text"),
    ],
)
def test_a_failure_says_when_to_try_again(data: bytes, error_type: str, retry_when: str, plain: DecodePool) -> None:
    outcome = decode(FetchedImage(ImageInput("x"), data, "v1"), plain)
    assert isinstance(outcome, Failure)
    assert (outcome.error_type, outcome.retry_when) == (error_type, retry_when)


def test_a_heic_image_without_its_package_waits_for_that() -> None:
    heic = encode_heic(halves("red", "blue"))
    without = "import sys; sys.modules['pillow_heif'] = None; from beam_job.loading.decode_worker import main; main()"
    with pool_of(program=without) as pool:
        outcome = decode(FetchedImage(ImageInput("x.heic"), heic, "v1"), pool)
    assert isinstance(outcome, Failure)
    assert (outcome.error_type, outcome.retry_when) == ("MissingSupportError", OPTIONS)
    assert "pip install" in outcome.error_message


def test_a_process_killed_while_idle_costs_nothing() -> None:
    with pool_of(program=HOOKED) as pool:
        os.kill(pid := pid_of(pool), 9)
        assert has_ended(pid)
        assert pool.load(PNG).width == 40


def test_a_process_waits_for_its_next_image_whatever_sockets_do_by_default() -> None:
    """Beam sets a timeout for all sockets to come, on Dataflow's workers too."""
    socket.setdefaulttimeout(60)
    try:
        with pool_of(program=HOOKED) as pool:
            assert len({pid_of(pool) for _ in range(100)}) == 1
    finally:
        socket.setdefaulttimeout(None)


def test_an_image_whose_process_died_gets_a_second_try(tmp_path: Path) -> None:
    """The system may have killed it for want of memory, which is not the image's fault."""
    (tmp_path / "mark.png").write_bytes(PNG)
    with pool_of(program=HOOKED) as pool:
        assert pool.load(b"dies once " + bytes(tmp_path / "mark")).width == 40


def test_a_picture_beyond_the_memory_limit_is_refused_by_a_real_decoder() -> None:
    large = encode(Image.new("RGB", (9000, 9000)), "PNG", compress_level=1)  # 324 MB as Pillow holds it
    with pool_of(memory=250 * 2**20) as pool:
        with pytest.raises(DecoderError, match="decoding needs more than 250 MB of memory"):
            pool.load(large)
        assert pool.load(PNG).width == 40


def test_a_failure_of_the_image_keeps_the_process() -> None:
    with pool_of(program=HOOKED) as pool:
        first = pid_of(pool)
        with pytest.raises(ImageError, match="not an image"):
            pool.load(EPS)
        with pytest.raises(ImageError, match="PNG cannot be decoded"):
            pool.load(PNG[:50])
        assert pid_of(pool) == first


def test_what_a_decoder_prints_spoils_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with pool_of(program=HOOKED) as pool:
        for _ in range(3):
            assert pool.load(PNG).width == 40
    assert capfd.readouterr() == ("", "")


def test_there_are_no_more_processes_than_asked_for() -> None:
    with pool_of(2, program=HOOKED) as pool:
        pids: set[int] = set()
        threads = [threading.Thread(target=lambda: pids.add(pid_of(pool))) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert 1 <= len(pids) <= 2
    assert all(has_ended(pid) for pid in pids)


def test_ctrl_c_at_the_terminal_does_not_reach_the_processes() -> None:
    with pool_of(program=HOOKED) as pool:
        assert os.getpgid(pid_of(pool)) != os.getpgid(0)


def test_processes_end_with_a_job_that_is_killed() -> None:
    job = f"""
import os
from beam_job.loading.decode_pool import DecodePool
pool = DecodePool(1, {SIZE}, program={HOOKED!r})
try:
    pool.load(b"pid")
except ValueError as told:
    print(told, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", job], capture_output=True, text=True, check=False)
    assert done.returncode == -9
    assert has_ended(int(done.stdout))


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(PNG_BOMB, id="PNG header"),
        pytest.param(TEXT_BOMB, id="PNG text"),
        pytest.param(gif_bomb(), id="GIF canvas"),
        pytest.param(jpeg_bomb(), id="JPEG"),
        pytest.param(jpeg_bomb(0xC2, scans=50), id="progressive JPEG"),
        pytest.param(TILE_BOMB, id="TIFF tile"),
        pytest.param(tiff(60_000, 60_000), id="TIFF header"),
    ],
)
def test_bombs_are_refused_in_constant_memory(bomb: bytes) -> None:
    assert len(bomb) < 2**20
    with pool_of(program=HOOKED) as pool:
        pid = pid_of(pool)
        status = Path(f"/proc/{pid}/status")
        if not status.exists():
            pytest.skip("needs /proc to tell a process's memory")
        before = peak_of(status)
        with pytest.raises(ImageError) as refused:
            pool.load(bomb)
        assert not isinstance(refused.value, DecoderError)
        assert peak_of(status) - before < 20 * 2**20


def peak_of(status: Path) -> int:
    """The most memory that a process has held, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    assert found
    return int(found[1]) * 1024
