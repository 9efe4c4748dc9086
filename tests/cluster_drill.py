"""A Dask cluster of three hosts that fail one after the other; afterwards every image has exactly one row.

    sudo .venv/bin/python -m tests.cluster_drill          # root, iproute2; takes some minutes

The hosts are network namespaces on one bridge: one with the scheduler and an S3 server (moto's), two with a
worker each. The job is submitted from outside. Each drill prints a line; the exit code is 1 if one of them failed.
"""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

NET, BRIDGE, HOSTS = "10.77.31", "cidrill", (1, 2, 3)
SCHEDULER, S3 = f"tcp://{NET}.11:8786", f"http://{NET}.11:5000"
IMAGES, SHARD = 240, 4
CUT_OFF_S = 60.0
ROOT = Path(__file__).parents[1]
CAPTIONER = """
import time
from model import Caption

class Slow:
    version, input_size, batch_size = "slow-1", 8, 4

    def caption(self, images):
        time.sleep(0.5)
        return [[Caption(f"gray {round(float(image.mean()))}", -1.0)] for image in images]

def make(model, decoding):
    return Slow()
"""
S3_SERVER = "from moto.server import ThreadedMotoServer as S; S('0.0.0.0', 5000).start(); import time; time.sleep(1e6)"


class Hosts:
    """The namespaces, and the processes in them.

    Args:
      folder: for the logs of the processes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Hosts:
        self._remove()
        ip(f"link add {BRIDGE} type bridge", f"addr add {NET}.1/24 dev {BRIDGE}", f"link set {BRIDGE} up")
        for host in HOSTS:
            ip(f"netns add {BRIDGE}{host}", f"link add {BRIDGE}-{host} type veth peer name eth0 netns {BRIDGE}{host}")
            ip(f"link set {BRIDGE}-{host} master {BRIDGE} up", f"-n {BRIDGE}{host} link set lo up")
            ip(f"-n {BRIDGE}{host} addr add {NET}.1{host}/24 dev eth0", f"-n {BRIDGE}{host} link set eth0 up")
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._running):
            self.kill(name)
        self._remove()

    def start(self, name: str, host: int, *command: str) -> None:
        """Starts a Python program on a host."""
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                ["ip", "netns", "exec", f"{BRIDGE}{host}", sys.executable, *command], stdout=log, stderr=log
            )

    def start_scheduler(self) -> None:
        """Starts the scheduler on the first host."""
        self.start("scheduler", 1, "-m", "distributed.cli.dask_scheduler", f"--host={SCHEDULER}", "--no-dashboard")

    def start_worker(self, host: int) -> None:
        """Starts a worker, which waits for the scheduler as long as it takes."""
        module = "distributed.cli.dask_worker"
        options = [f"--host={NET}.1{host}", "--nthreads=2", "--no-dashboard", "--death-timeout=600"]
        self.start(f"worker{host}", host, "-m", module, SCHEDULER, *options)

    def start_again(self) -> None:
        """Starts the scheduler again, and the workers, which end when they lose it."""
        for host in (2, 3):
            self.kill(f"worker{host}")
        self.start_scheduler()
        for host in (2, 3):
            self.start_worker(host)

    def kill(self, name: str) -> None:
        """Kills a program and its children with SIGKILL."""
        process = self._running.pop(name)
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
        process.kill()
        process.wait()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)

    def link(self, host: int, state: str) -> None:
        """Cuts a host off from the network ("down"), or connects it again ("up")."""
        ip(f"link set {BRIDGE}-{host} {state}")

    def _remove(self) -> None:
        for command in [f"link del {BRIDGE}", *(f"netns del {BRIDGE}{host}" for host in HOSTS)]:
            subprocess.run(["ip", *command.split()], capture_output=True)


def ip(*commands: str) -> None:
    """Runs commands of iproute2."""
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True)


def main() -> int:
    """Runs all drills."""
    with tempfile.TemporaryDirectory(prefix="cluster-drill-") as name, Hosts(Path(name)) as hosts:
        folder = Path(name)
        prepare(folder)
        hosts.start("s3", 1, "-c", S3_SERVER)
        hosts.start_scheduler()
        hosts.start_worker(2)
        from beam_job.storage import S3Storage

        storage = S3Storage()
        wait_until(lambda: can(lambda: storage._fs.mkdir("drill")), 60)
        drill = Drill(folder, storage)
        results = [drill.run("one worker", None)]
        hosts.start_worker(3)
        results.append(drill.run("two workers", None))
        results.append(drill.run("a worker killed", lambda: hosts.kill("worker3")))
        hosts.start_worker(3)
        results.append(drill.run(f"a host cut off for {CUT_OFF_S:.0f} s", lambda: cut_off(hosts, 3)))
        results.append(drill.run("the scheduler killed", lambda: hosts.kill("scheduler"), hosts.start_again))
        results.append(drill.run("the submitting process killed", drill.kill_job, lambda: None))
        return 0 if all(results) else 1


class Drill:
    """Runs of the job, each into an output of its own.

    Args:
      folder: with the photographs.
      storage: of the outputs.
    """

    def __init__(self, folder: Path, storage: object) -> None:
        self._folder, self._storage = folder, storage
        self._outputs = 0

    def run(self, name: str, disturb: Callable[[], None] | None, repair: Callable[[], None] | None = None) -> bool:
        """Disturbs a run at a third of its shards; with `repair`, repeats the command afterwards. Prints a line."""
        self._outputs += 1
        self._output = f"s3://drill/{self._outputs}"
        started = time.monotonic()
        self._start()
        codes = []
        if disturb:
            wait_until(lambda: len(self._parts()) >= IMAGES // SHARD // 3, 600)
            disturb()
        codes.append(self._job.wait(900))
        if repair:
            repair()
            self._start()
            codes.append(self._job.wait(900))
        seconds = time.monotonic() - started
        rows = self._rows()
        is_whole = len(rows) == IMAGES and set(rows.values()) == {1} and codes[-1] == 0
        print(f"{name:32} exit {', '.join(map(str, codes)):8} {len(rows)} of {IMAGES} images, ", end="")
        print(
            f"{max(rows.values(), default=0)} row each, {seconds:.0f} s: {'ok' if is_whole else 'FAILED'}", flush=True
        )
        return is_whole

    def kill_job(self) -> None:
        """Kills the submitting process."""
        self._job.kill()

    def _start(self) -> None:
        options = [f"--input={self._folder}/photos", f"--output={self._output}", f"--shard_size={SHARD}"]
        options += ["--captioner=slow_captioner:make", "--runner=DaskRunner", f"--dask_client_address={SCHEDULER}"]
        with (self._folder / "job.log").open("ab") as log:
            command = [sys.executable, "-m", "beam_job", *options]
            self._job = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder)

    def _parts(self) -> list[str]:
        return [stored.uri for stored in self._storage.list(f"{self._output}/captions")]  # type: ignore[attr-defined]

    def _rows(self) -> collections.Counter[str]:
        """How many rows each URI has."""
        count: collections.Counter[str] = collections.Counter()
        for uri in self._parts():
            content, _ = self._storage.read(uri)  # type: ignore[attr-defined]
            count.update(pq.read_table(pa.BufferReader(content))["uri"].to_pylist())
        return count


def prepare(folder: Path) -> None:
    """Photographs, the captioner, and the environment of all processes."""
    (folder / "photos").mkdir()
    for number in range(IMAGES):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(folder / "photos" / f"{number:03d}.png")
    (folder / "slow_captioner.py").write_text(CAPTIONER)
    os.environ |= {
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
        "AWS_ENDPOINT_URL": S3,
        "AWS_ACCESS_KEY_ID": "drill",
        "AWS_SECRET_ACCESS_KEY": "drill",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def cut_off(hosts: Hosts, host: int) -> None:
    """Cuts a host off for a while."""
    hosts.link(host, "down")
    time.sleep(CUT_OFF_S)
    hosts.link(host, "up")


def can(action: Callable[[], object]) -> bool:
    """Whether an action succeeds."""
    try:
        action()
    except Exception:  # of a server that is not up yet
        return False
    return True


def wait_until(ready: Callable[[], bool], limit_s: float) -> None:
    """Waits; ends the drill after the limit."""
    deadline = time.monotonic() + limit_s
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError("the cluster or the job is not as far as it should be")
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
