"""SIGTERM and Ctrl-C, sent to the real command at a known moment; then the same command again."""

from __future__ import annotations

import contextlib
import io
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from PIL import Image

from beam_job.cli.command import main
from tests.fakes import FakeCaptioner, with_fake_model
from tests.fault_server import FaultServer, held, ok, serve, stall
from tests.leases import is_released

LOCAL = 3  # images of the first shard; the second one never comes while the server stalls


def png(shade: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (20, 10), (shade, 60, 30)).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with serve() as faults:
        yield faults


@pytest.fixture
def arguments(server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A run whose first shard is written at once, and whose second one hangs on the server."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("beam_job.captioning.caption_shards.load_captioner", lambda *_: FakeCaptioner())
    uris = [str(tmp_path / f"{number}.png") for number in range(LOCAL)]
    for number, uri in enumerate(uris):
        Path(uri).write_bytes(png(number))
    for number in range(2 * LOCAL):
        server.script(f"{number}.png", stall)
        uris.append(f"{server.address}/{number}.png")
    (tmp_path / "a list.txt").write_text("\n".join(uris))
    output = tmp_path / "out"
    given = [f"--input={tmp_path}/a list.txt", f"--output={output}"]
    given += ["--allow_schemes=http", "--allow_private_addresses"]
    return [*given, f"--shard_size={LOCAL}", f"--batch_size={LOCAL}"]


@contextlib.contextmanager
def running(*arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """The command in a session of its own, as a terminal would start it: with Ctrl-C not ignored."""
    command = [sys.executable, "-m", "beam_job", *arguments]
    environment = with_fake_model(**variables)

    def heed_ctrl_c() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with subprocess.Popen(
        command,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_ctrl_c,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str], limit_s: float = 120.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def session(leader: int) -> list[str]:
    """The living processes of a session, by their command lines."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, of = stat.read_text().rpartition(")")[2].split()[:4]
            if int(of) == leader and state != "Z":
                found.append((stat.parent / "cmdline").read_text().replace("\0", " "))
    return found


def first_shard(tmp_path: Path) -> list[Path]:
    return list(tmp_path.glob("out/captions/*/part-00000.parquet"))


def finish(server: FaultServer, arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The same command goes on, now that the server answers, and nothing is done twice."""
    [before] = first_shard(tmp_path)
    written = before.stat().st_mtime_ns
    for number in range(2 * LOCAL):
        server.script(f"{number}.png", ok(png(100 + number)))
    capfd.readouterr()
    assert main(arguments) == 0
    printed = capfd.readouterr().err
    assert "resuming run" in printed
    assert f"{LOCAL + 2 * LOCAL} of 9 images (100 %), 0 failed" in printed  # with those that had been written before
    assert before.stat().st_mtime_ns == written
    rows = ds.dataset(tmp_path / "out" / "captions").to_table(["uri"])["uri"].to_pylist()
    assert len(rows) == len(set(rows)) == 3 * LOCAL


def test_a_stopped_run_says_how_to_go_on_and_goes_on(
    server: FaultServer, arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The fetches under way would hold the process for their 60 s; a signal ends it all the same."""
    with running(*arguments) as process:
        wait_until(lambda: first_shard(tmp_path) and server.asked, process)
        process.send_signal(signal.SIGINT)
        _, printed = process.communicate(timeout=30)
    assert process.returncode == 130
    last = printed.splitlines()[-1]
    quoted = " ".join(["caption-images", f"'{arguments[0]}'", *arguments[1:]])
    assert last == f"caption-images: stopped; 1 of 3 shards are written; to resume: {quoted}"
    assert "Traceback" not in printed
    assert "Exception ignored" not in printed
    assert is_released(tmp_path / "out")
    finish(server, arguments, tmp_path, capfd)


def test_worker_processes_end_with_the_run(
    server: FaultServer, arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with running(*arguments, "--workers=2") as process:
        wait_until(lambda: first_shard(tmp_path) and server.asked, process)
        assert sum("sdk_worker_main" in command for command in session(process.pid)) >= 2
        process.send_signal(signal.SIGTERM)
        _, printed = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "stopped; 1 of 3 shards are written" in printed.splitlines()[-1]
    assert "Traceback" not in printed
    assert session(process.pid) == []
    assert is_released(tmp_path / "out")
    finish(server, arguments, tmp_path, capfd)


def test_a_second_signal_ends_at_once(
    server: FaultServer, arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The first one waits some seconds for a batch that hangs; the second does not, nor for the lease."""
    hung, answer = tmp_path / "hung", threading.Event()
    for number in range(LOCAL):
        server.script(f"{number}.png", held(answer, ok(png(100 + number))))
    with running(*arguments, BATCHES="1", HUNG=str(hung)) as process:
        wait_until(lambda: first_shard(tmp_path), process)
        answer.set()
        wait_until(hung.exists, process)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        _, printed = process.communicate(timeout=30)
    assert process.returncode in (130, 143)  # two signals at once come in any order
    assert "to resume" not in printed
    finish(server, arguments, tmp_path, capfd)


def test_a_signal_while_a_line_is_logged_is_not_lost() -> None:
    """The line waits for the bar's lock when the signal comes; in another process, since it sets signal handlers."""
    script = """
import os, signal, sys, threading
from tqdm import tqdm
from beam_job.cli.logs import LOGGER, log_to
from beam_job.cli.signals import Stopped, stop_on_signals

def hold(lock, held, done):
    with lock:
        held.set()
        done.wait()

held, done = threading.Event(), threading.Event()
with log_to(sys.stderr), stop_on_signals("too late"):
    threading.Thread(target=hold, args=(tqdm.get_lock(), held, done)).start()
    held.wait()
    try:
        threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGTERM)).start()
        LOGGER.info("a line")
    except Stopped as stopped:
        print(stopped.exit_code)
    finally:
        done.set()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "143\n"), done.stderr
