"""The lease of an output: contended, refused, taken over from the dead, lost, and released."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from beam_job.planning import lease as lease_module
from beam_job.planning.lease import Lease, LeaseError, LeaseLostError, LeaseRecord, lease
from beam_job.planning.process_identity import ProcessIdentity
from beam_job.storage import StorageError, join, storage_for

ELSEWHERE = ProcessIdentity("another-host", 4321, "another boot", "pid:[1]", 99)


class Clock:
    """Time that passes only while somebody sleeps; `meanwhile` is called during each sleep."""

    def __init__(self, meanwhile: Callable[[float], None] = lambda now: None) -> None:
        self.now = 0.0
        self._meanwhile = meanwhile

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._meanwhile(self.now)

    def lease(self, output: object, storage: Any = None) -> Lease:
        return Lease(str(output), storage, lambda: self.now, self.sleep)


class Faulty:
    """A storage in which a test replaces single methods."""

    def __init__(self, output: object, **methods: Callable[..., Any]) -> None:
        self._storage = storage_for(str(output))
        self._methods = methods

    def __getattr__(self, name: str) -> Any:
        return self._methods.get(name) or getattr(self._storage, name)


def put(output: object, number: int, process: ProcessIdentity = ELSEWHERE, **fields: Any) -> str:
    """A lease file of another process."""
    uri = join(str(output), "_LEASE", f"{number:06d}.json")
    storage_for(uri).write(uri, LeaseRecord(f"token {number}", process, **{"since": 0.0, **fields}).to_json())
    return uri


def records(output: object) -> dict[int, LeaseRecord]:
    files = storage_for(str(output)).list(join(str(output), "_LEASE"))
    names = (stored.uri.rpartition("/")[2] for stored in files if stored.uri.endswith(".json"))
    uris = {int(name[:6]): join(str(output), "_LEASE", name) for name in names}
    return {number: LeaseRecord.from_json(storage_for(uri).read(uri)[0]) for number, uri in uris.items()}


def gone() -> ProcessIdentity:
    """A process of this machine that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return dataclasses.replace(ProcessIdentity.current(), pid=process.pid)


@pytest.fixture(params=["local", "bucket"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder, and a bucket of a server that honours preconditions."""
    if request.param == "local":
        return str(tmp_path / "out")
    request.getfixturevalue("gcs_server")
    return "gs://bucket/out"


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


def test_an_error_on_release_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def write(uri: str, data: bytes) -> None:
        raise StorageError(f"{uri}: No space left on device")

    clock = Clock()
    held = clock.lease(tmp_path, Faulty(tmp_path, write=write))
    held.acquire()
    held.release()
    [line] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith(f"the lease of {tmp_path} could not be released: ")


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
