"""The heartbeat of a lease that is held, and what its holder does when another run has taken it over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from beam_job.planning import lease as lease_module
from beam_job.planning.lease import Lease, LeaseLostError, lease
from beam_job.storage import StorageError, storage_for
from tests.leases import Clock, Faulty, put, records


def test_the_heartbeat_changes_the_file_while_the_lease_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_S", 0.01)
    beaten = threading.Event()

    def write(uri: str, data: bytes) -> None:
        storage_for(uri).write(uri, data)
        if json.loads(data)["beats"] == 3:
            beaten.set()

    held = Lease(str(tmp_path), Faulty(tmp_path, write=write))
    held.acquire()
    assert beaten.wait(60)
    assert records(tmp_path)[1].beats >= 3
    held.release()


def test_a_missed_heartbeat_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_S", 0.01)
    failures = threading.Semaphore(0)

    def write(uri: str, data: bytes) -> None:
        if not json.loads(data)["released"]:
            failures.release()
            raise StorageError("503", transient=True)
        storage_for(uri).write(uri, data)

    held = Lease(str(tmp_path), Faulty(tmp_path, write=write))
    held.acquire()
    for _ in range(3):
        assert failures.acquire(timeout=60)
    held.verify()
    held.release()
    assert records(tmp_path)[1].released


def test_a_holder_that_was_taken_for_dead_notices_and_leaves_the_new_one_alone(
    output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_S", 0.01)
    with lease(output) as held:
        put(output, 2)
        assert held.lost.wait(60)
        with pytest.raises(LeaseLostError, match=f"another run has taken over {output}"):
            held.check()
        before = records(output)
    assert records(output) == before
    assert not before[2].released


def test_the_loss_is_seen_on_request_before_the_next_heartbeat(tmp_path: Path) -> None:
    with lease(str(tmp_path)) as held:
        held.verify()
        put(tmp_path, 2)
        held.check()
        with pytest.raises(LeaseLostError):
            held.verify()


RUN_ELSEWHERE = """
import os, pathlib, sys, time
from beam_job.planning import lease, process_identity
from beam_job.captioning import caption_shards, open_shard
from tests.fakes import FakeCaptioner

folder = pathlib.Path(sys.argv[1])
process_identity._BOOT_ID = folder / "boot_id"  # so that other processes cannot see whether this one runs
process_identity._BOOT_ID.write_text("another boot")
lease.HEARTBEAT_S = 0.5
commits = []
commit_shard = open_shard.commit_shard

def commit_and_wait(*arguments):
    if len(commits) == 2:
        (folder / "ready").touch()
        time.sleep(600)
    commits.append(1)
    return commit_shard(*arguments)

open_shard.commit_shard = commit_and_wait
caption_shards.load_captioner = lambda *_: FakeCaptioner()
from beam_job.cli.command import command
sys.argv[1:] = sys.argv[2:]
command()
"""


@pytest.fixture
def stopped_run(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run that has written two shards, and was then stopped by SIGSTOP."""
    (tmp_path / "photos").mkdir()
    for shade in range(12):
        Image.new("RGB", (20, 10), (shade, 60, 30)).save(tmp_path / "photos" / f"{shade}.png")
    options = [f"--input={tmp_path}/photos", f"--output={tmp_path}/out", "--shard_size=2"]
    command = [sys.executable, "-c", RUN_ELSEWHERE, str(tmp_path), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            while not (tmp_path / "ready").exists():
                assert process.poll() is None, process.stderr and process.stderr.read()
                time.sleep(0.05)
            os.kill(process.pid, signal.SIGSTOP)
            yield process
        finally:
            process.kill()


def test_a_stopped_run_that_wakes_up_without_its_lease_ends(tmp_path: Path, stopped_run: subprocess.Popen[str]) -> None:
    clock = Clock()
    held = clock.lease(tmp_path / "out")
    held.acquire()
    assert clock.now >= lease_module.STALE_AFTER_S
    os.kill(stopped_run.pid, signal.SIGCONT)
    _, errors = stopped_run.communicate(timeout=240)
    assert stopped_run.returncode == 1
    assert "Traceback" not in errors
    last = errors.splitlines()[-1]
    assert last.startswith("caption-images: run ")
    assert f"was stopped: another run has taken over {tmp_path}/out" in last
    assert len(list((tmp_path / "out" / "captions").rglob("*.parquet"))) == 2
    assert not list((tmp_path / "out").rglob("summary.json"))
    held.verify()
    held.release()
