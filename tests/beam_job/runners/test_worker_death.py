"""A worker process that ends early ends the run, whichever way it ended: real processes of a real run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.images import encode

CAPTIONER = """
import os, signal, sys
from pathlib import Path
from model import Caption

ENDS = {
    "sigkill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit 0": lambda: os._exit(0),
    "exit 3": lambda: os._exit(3),
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


@pytest.mark.parametrize(
    ("how", "told"),
    [
        pytest.param("sigkill", "signal 9, SIGKILL", id="killed, as for want of memory"),
        pytest.param("exit 0", "exit code 0", id="a captioner leaves with 0"),
    ],
)
def test_a_dead_worker_ends_the_run_and_the_same_command_resumes_it(tmp_path: Path, how: str, told: str) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for number in range(12):
        (photographs / f"{number:02}.png").write_bytes(encode(Image.new("RGB", (9, 9), (number, 0, 0)), "PNG"))
    (tmp_path / "dying_captioner.py").write_text(CAPTIONER)
    command = [sys.executable, "-m", "beam_job", f"--input={photographs}", f"--output={tmp_path}/out"]
    command += ["--captioner=dying_captioner:make", f"--model={how}", "--workers=2", "--shard_size=2", "--batch_size=2"]

    def run() -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)

    first = run()
    assert first.returncode == 1, first.stderr
    last = first.stderr.splitlines()[-1]
    assert f"a worker process died ({told}) with work left" in last
    assert last.endswith("repeat the command to resume")
    second = run()  # the lease was given back, or this would be refused
    assert second.returncode == 0, second.stderr
    assert "resuming run" in second.stderr
    assert "12 captions and 0 failures" in second.stderr
