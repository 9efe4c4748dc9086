"""The lease of an output: one contender gets it, the others are refused; errors of the storage decide nothing."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from beam_job.planning.lease import Lease, LeaseError, lease
from beam_job.storage import StorageError, storage_for
from tests.leases import Clock, Faulty, gone, put, records


def test_a_lease_is_held_by_one_at_a_time_and_given_back(output: str) -> None:
    with lease(output):
        with pytest.raises(LeaseError, match=f"another run is writing to this output: process {os.getpid()} on "):
            Lease(output).acquire()
        assert [record.released for record in records(output).values()] == [False]
    with lease(output):
        pass
    assert [record.released for record in records(output).values()] == [True]


@pytest.mark.parametrize("holder", ["dead", "released", "none"])
def test_of_many_contenders_one_gets_the_lease(output: str, holder: str) -> None:
    if holder != "none":
        put(output, 7, gone(), released=holder == "released")
    together = threading.Barrier(8, timeout=60)

    def contend(_: int) -> Lease | None:
        contender = Lease(output)
        together.wait()
        try:
            contender.acquire()
        except LeaseError:
            return None
        return contender

    with ThreadPoolExecutor(8) as threads:
        winners = [contender for contender in threads.map(contend, range(8)) if contender]
    assert len(winners) == 1
    winners[0].verify()
    winners[0].release()


CONTENDER = """
import os, sys, time
from beam_job.planning.lease import Lease, LeaseError

output, inside, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
while times:
    lease = Lease(output)
    try:
        lease.acquire()
    except LeaseError:
        time.sleep(0.001)
        continue
    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails where another holds the lease, too
    with open(inside + ".log", "a") as log:
        log.write("x")
    os.unlink(inside)
    times -= 1
    if times:
        lease.release()
# The last time it dies with the lease in hand.
os._exit(0)
"""


def test_processes_never_hold_it_at_the_same_time(tmp_path: Path) -> None:
    """Four processes take and release it again and again; each dies while it holds it, and the others take over."""
    inside = tmp_path / "inside"
    command = [sys.executable, "-c", CONTENDER, str(tmp_path / "out"), str(inside), "15"]
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            )
            for _ in range(4)
        ]
        for process in processes:
            assert process.stdout
            process.stdout.readline()
        errors = [process.communicate(b"go\n", timeout=240)[1] for process in processes if process.stdin]
    assert [(process.returncode, error.decode()) for process, error in zip(processes, errors, strict=True)] == [
        (0, "")
    ] * 4
    assert len((tmp_path / "inside.log").read_text()) == 60


@pytest.mark.parametrize("operation", ["list", "read", "create"])
def test_what_cannot_be_seen_is_not_taken(tmp_path: Path, operation: str) -> None:
    put(tmp_path, 3, gone())
    before = records(tmp_path)

    def fail(*_: object) -> Any:
        raise StorageError("gs://bucket: 503 Service Unavailable", "ServiceUnavailable", transient=True)

    with pytest.raises(StorageError, match="503 Service Unavailable"):
        Lease(str(tmp_path), Faulty(tmp_path, **{operation: fail})).acquire()
    assert records(tmp_path) == before


LATE = b'{"token": "x", "host": "h", "pid": 1, "since": 1e300}'


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"token": "x"}', b"\xff", LATE], ids=repr)
def test_a_damaged_lease_is_one_line_with_a_remedy_that_works(tmp_path: Path, content: bytes) -> None:
    uri = put(tmp_path, 3)
    Path(uri).write_bytes(content)
    with pytest.raises(LeaseError) as refused:
        Lease(str(tmp_path)).acquire()
    assert str(refused.value).startswith(f"the lease {uri} is damaged (")
    assert str(refused.value).endswith("then delete this file")
    Path(uri).unlink()
    with lease(str(tmp_path)):
        pass


@pytest.mark.parametrize("answer", ["lost", "False after a retry"])
def test_a_create_whose_answer_is_lost_counts(output: str, answer: str) -> None:
    def create(uri: str, data: bytes) -> bool:
        assert storage_for(uri).create(uri, data)
        if answer == "lost":
            raise StorageError(f"{uri}: connection reset", "ConnectionError", transient=True)
        return False

    held = Lease(output, Faulty(output, create=create))
    held.acquire()
    held.verify()
    held.release()


def test_a_server_that_answers_503_after_it_has_created(gcs_server: Any) -> None:
    gcs_server.fail("insert", "*_LEASE*", status=503, applied=True, times=1)
    with lease("gs://bucket/out") as held:
        held.verify()
    assert [record.released for record in records("gs://bucket/out").values()] == [True]


def test_an_error_on_release_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def write(uri: str, data: bytes) -> None:
        raise StorageError(f"{uri}: No space left on device")

    clock = Clock()
    held = clock.lease(tmp_path, Faulty(tmp_path, write=write))
    held.acquire()
    held.release()
    [line] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith(f"the lease of {tmp_path} could not be released: ")
