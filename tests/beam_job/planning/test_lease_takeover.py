"""A lease is taken over from holders that are dead, here, elsewhere or of an earlier version, and from no other."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from beam_job.planning import lease as lease_module
from beam_job.planning.lease import Lease, LeaseError, lease
from beam_job.planning.process_identity import ProcessIdentity
from beam_job.storage import StorageError, storage_for
from tests.leases import Clock, Faulty, gone, put, records


def test_a_contender_with_an_old_listing_steps_back(output: str) -> None:
    """While it was about to take over from 5, others took 6 and 7; 7 holds it, and 6 is deleted."""
    old = put(output, 5, gone())

    def create(uri: str, data: bytes) -> bool:
        put(output, 7, ProcessIdentity.current())
        with contextlib.suppress(StorageError):
            storage_for(old).delete(old)
        return storage_for(uri).create(uri, data)

    with pytest.raises(LeaseError, match="another run is writing to this output"):
        Lease(output, Faulty(output, create=create)).acquire()
    assert [*records(output)] == [7]


def test_a_holder_elsewhere_is_dead_after_a_minute_without_heartbeat(
    output: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the clocks say: its own is an hour ahead."""
    put(output, 3, since=time.time() + 3600)
    clock = Clock()
    held = clock.lease(output)
    with caplog.at_level("INFO", "beam_job"):
        held.acquire()
    assert clock.now >= lease_module.STALE_AFTER_S
    [line] = [record.getMessage() for record in caplog.records if record.name.startswith("beam_job")]
    assert line.startswith(f"waiting up to 60 s to see whether the run that holds {output} is alive: process 4321 on ")
    held.release()
    assert [*records(output)] == [4]


@pytest.mark.parametrize("behind", [90, -90, 3600], ids=["behind", "ahead", "far behind"])
def test_a_live_holder_elsewhere_keeps_it_however_its_clock_goes(tmp_path: Path, behind: float) -> None:
    since = time.time() - behind
    put(tmp_path, 3, since=since)
    clock = Clock(lambda now: now > 30 and put(tmp_path, 3, since=since, beats=1))
    with pytest.raises(LeaseError, match="process 4321 on another-host, since"):
        clock.lease(tmp_path).acquire()
    assert clock.now < lease_module.STALE_AFTER_S
    assert [*records(tmp_path)] == [3]


def test_who_waits_takes_over_at_once_when_the_holder_releases(tmp_path: Path) -> None:
    put(tmp_path, 3)
    clock = Clock(lambda now: now > 10 and put(tmp_path, 3, released=True))
    held = clock.lease(tmp_path)
    held.acquire()
    held.release()
    assert clock.now < lease_module.STALE_AFTER_S


@pytest.mark.parametrize("alive", [True, False])
def test_the_process_table_decides_on_the_same_machine(tmp_path: Path, alive: bool) -> None:
    """A stopped process is alive; a process id that another process has now is not the holder's."""
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        os.kill(other.pid, signal.SIGSTOP)
        started = int(Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[19])
        here = ProcessIdentity.current()
        put(tmp_path, 1, dataclasses.replace(here, pid=other.pid, started=started if alive else started - 1))
        clock = Clock()
        contender = clock.lease(tmp_path)
        if alive:
            with pytest.raises(LeaseError, match=f"process {other.pid} on"):
                contender.acquire()
        else:
            contender.acquire()
            contender.release()
        assert clock.now == 0
    finally:
        other.kill()
        other.communicate()


def put_old(output: Path, pid: int, host: str, heartbeat: float) -> Path:
    """The lease file of version 0.1."""
    path = output / "runs" / "_LEASE.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"token": "t", "host": host, "pid": pid, "since": 0.0, "heartbeat": heartbeat}))
    return path


def test_a_dead_lease_of_an_earlier_version_is_removed(tmp_path: Path) -> None:
    path = put_old(tmp_path, gone().pid, ProcessIdentity.current().host, 0.0)
    with lease(str(tmp_path)):
        assert not path.exists()


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_a_live_lease_of_an_earlier_version_refuses(tmp_path: Path, where: str) -> None:
    host = ProcessIdentity.current().host if where == "here" else "another-host"
    path = put_old(tmp_path, os.getpid(), host, 0.0)
    with pytest.raises(LeaseError, match=f"process {os.getpid()} on {host}"):
        Clock(lambda now: now > 10 and put_old(tmp_path, os.getpid(), host, now)).lease(tmp_path).acquire()
    assert path.exists()
    path.unlink()
    with lease(str(tmp_path)):  # the refused contender holds nothing
        pass


def test_files_of_others_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "_LEASE"
    (folder / "old").mkdir(parents=True)
    others = [folder / "000001.json", folder / "0000099.json", folder / "old" / "000099.json", folder / "notes.txt"]
    for file in others:
        file.write_text('{"mine": true}')
    put(tmp_path, 2, gone())
    with lease(str(tmp_path)):
        assert (folder / "000003.json").exists()
    assert [file.read_text() for file in others] == ['{"mine": true}'] * 4
    assert not (folder / "000002.json").exists()
