"""Dask: a scheduler and worker processes as on several machines, one of them killed; and a cluster of this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
from PIL import Image

from beam_job.cli.command import main
from tests.conftest import ROOT

pytest.importorskip("distributed")

CAPTIONER = """
import os, pathlib, time
from model import Caption

HERE = pathlib.Path(__file__).parent

class Tiny:
    version, input_size, batch_size = "tiny-1", 8, 4

    def load(self):
        (HERE / "loaded").mkdir(exist_ok=True)
        with (HERE / "loaded" / str(os.getpid())).open("a") as file:
            file.write("once\\n")

    def caption(self, images):
        while (HERE / "wait").exists():  # for the test
            (HERE / "busy").mkdir(exist_ok=True)
            (HERE / "busy" / str(os.getpid())).touch()
            time.sleep(0.02)
        return [[Caption(f"gray {round(float(image.mean()))}", -1.0)] for image in images]

def make(model, decoding):
    return Tiny()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Thirty photographs and a text, and a captioner that workers can import."""
    (tmp_path / "photos").mkdir()
    for number in range(30):
        pixels = np.full((8, 8, 3), number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "photos" / "text.png").write_text("no picture")
    (tmp_path / "tiny_dask_captioner.py").write_text(CAPTIONER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cluster(folder: Path) -> Iterator[Path]:
    """A scheduler and two workers without anyone who restarts them; yields the scheduler's file."""
    file = folder / "scheduler.json"
    scheduler = ["dask_scheduler", "--host=127.0.0.1", "--port=0", "--no-dashboard", f"--scheduler-file={file}"]
    worker = ["dask_worker", f"--scheduler-file={file}", "--no-nanny", "--nthreads=1", "--no-dashboard"]
    with contextlib.ExitStack() as stack:
        for number, command in enumerate([scheduler, worker, worker]):
            log = stack.enter_context((folder / f"{command[0]}-{number}.log").open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{command[0]}", *command[1:]], stdout=log, stderr=log
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
        wait_until(file.exists)
        yield file


def test_a_killed_worker_costs_no_row(folder: Path, cluster: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "wait").touch()
    killer = threading.Thread(target=kill_one, args=(folder,))
    killer.start()
    assert run("out", f"--dask_scheduler_file={cluster}") == 0
    killer.join()
    assert not killed_one_is_alive(folder)
    check_rows("out")
    errors = capfd.readouterr().err
    assert "Traceback" not in errors
    assert "31 of 31 images (100 %), 1 failed" in errors
    # Each process opened the model once, although each partition is one shard.
    assert {file.read_text() for file in (folder / "loaded").iterdir()} == {"once\n"}
    assert len(list((folder / "loaded").iterdir())) == 2


def test_without_an_address_the_cluster_is_of_this_machine(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("out", "--workers=2") == 0
    check_rows("out")
    errors = capfd.readouterr().err
    assert "Traceback" not in errors
    assert "distributed" not in errors


def test_a_scheduler_that_is_not_there_is_one_line(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("out", "--dask_client_address=tcp://127.0.0.1:9", "--dask_connection_timeout=1") == 1
    errors = capfd.readouterr().err
    assert "Traceback" not in errors
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in errors.splitlines()[-1]


def run(output: str, *options: str) -> int:
    job = ["--input=photos", "--captioner=tiny_dask_captioner:make", "--shard_size=3", f"--output={output}"]
    return main([*job, "--runner=DaskRunner", *options])


def kill_one(folder: Path) -> None:
    """Kills a worker once both are in the middle of a batch."""
    wait_until(lambda: (folder / "busy").is_dir() and len(list((folder / "busy").iterdir())) == 2)
    victim = min(int(file.name) for file in (folder / "busy").iterdir())
    os.kill(victim, signal.SIGKILL)
    (folder / "killed").write_text(str(victim))
    (folder / "wait").unlink()


def killed_one_is_alive(folder: Path) -> bool:
    stat = Path("/proc", (folder / "killed").read_text(), "stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def check_rows(output: str) -> None:
    captions = ds.dataset(f"{output}/captions").to_table().to_pylist()
    assert {Path(row["uri"]).stem: row["caption"] for row in captions} == {str(n): f"gray {n}" for n in range(30)}
    assert len(captions) == 30
    assert [Path(row["uri"]).name for row in ds.dataset(f"{output}/failures").to_table().to_pylist()] == ["text.png"]


def wait_until(ready, limit_s: float = 240.0) -> None:
    deadline = time.monotonic() + limit_s
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.05)
