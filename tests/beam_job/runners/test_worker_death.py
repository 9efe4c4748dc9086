"""A worker process that ends early ends the run, however it ended: real processes of a real run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.images import encode
from tests.leases import is_released

CAPTIONER = """
import ctypes, os, signal, sys
from pathlib import Path
from model import Caption

ENDS = {
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit of a library": lambda: ctypes.CDLL(None)._exit(0),
    "os._exit": lambda: os._exit(3),
    "sys.exit": lambda: sys.exit(0),
}

class Captioner:
    version, input_size = "dies-1", 8
    def __init__(self, how):
        self.how = how
    def caption(self, images):
        try:
            Path(__file__).with_name("died").touch(exist_ok=False)  # one worker dies, once
        except FileExistsError:
            return [[Caption("a word", -1.0)] for _ in images]
        ENDS[self.how]()

def make(model, decoding):
    return Captioner(model)
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for number in range(12):
        (photographs / f"{number:02}.png").write_bytes(encode(Image.new("RGB", (9, 9), (number, 0, 0)), "PNG"))
    (tmp_path / "dying_captioner.py").write_text(CAPTIONER)
    given = [f"--input={photographs}", f"--output={tmp_path}/out", "--captioner=dying_captioner:make"]
    return [sys.executable, "-m", "beam_job", *given, "--workers=2", "--shard_size=2", "--batch_size=2"]


def run(command: list[str], how: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    return subprocess.run(
        [*command, f"--model={how}"], env=environment, capture_output=True, text=True, check=False, timeout=240
    )


@pytest.mark.parametrize(
    ("how", "message"),
    [
        pytest.param(
            "SIGKILL", "a worker process died (signal 9, SIGKILL) with work left", id="killed, as by the system"
        ),
        pytest.param("exit of a library", "a worker process died (exit code 0) with work left", id="a library exits"),
        pytest.param("os._exit", "the captioner called exit(3) instead of captioning a batch", id="os._exit"),
        pytest.param("sys.exit", "the captioner called exit(0) instead of captioning a batch", id="sys.exit"),
    ],
)
def test_a_dead_worker_ends_the_run(how: str, message: str, command: list[str], tmp_path: Path) -> None:
    ended = run(command, how, tmp_path)
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert message in last
    assert last.endswith("repeat the command to resume")
    assert is_released(tmp_path / "out")
    if how == "SIGKILL":
        resumed = run(command, how, tmp_path)
        assert resumed.returncode == 0, resumed.stderr
        assert "resuming run" in resumed.stderr
        assert "12 captions and 0 failures" in resumed.stderr
