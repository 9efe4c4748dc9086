"""A worker process that ends early ends the run: real processes of a real run. See test_worker_watch.py, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from beam_job.cli.command import main
from tests.conftest import ROOT
from tests.images import encode
from tests.leases import is_released

CAPTIONER = """
import os, signal
from pathlib import Path
from model import Caption

ENDS = {
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "os._exit": lambda: os._exit(3),
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
def arguments(tmp_path: Path) -> list[str]:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for number in range(12):
        (photographs / f"{number:02}.png").write_bytes(encode(Image.new("RGB", (9, 9), (number, 0, 0)), "PNG"))
    (tmp_path / "dying_captioner.py").write_text(CAPTIONER)
    given = [f"--input={photographs}", f"--output={tmp_path}/out", "--captioner=dying_captioner:make"]
    return [*given, "--shard_size=2", "--batch_size=2"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        pytest.param("SIGKILL", "a worker process died (signal 9, SIGKILL) with work left", id="killed by the system"),
        pytest.param("os._exit", "the captioner called exit(3) instead of captioning a batch", id="os._exit"),
    ],
)
def test_a_dead_worker_ends_the_run(
    how: str,
    message: str,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "beam_job", *arguments, f"--model={how}", "--workers=2"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert message in last
    assert last.endswith("repeat the command to resume")
    assert is_released(tmp_path / "out")

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "dying_captioner", raising=False)
    assert main([*arguments, f"--model={how}"]) == 0
    resumed = capfd.readouterr().err
    assert "resuming run" in resumed
    assert "12 captions and 0 failures" in resumed
