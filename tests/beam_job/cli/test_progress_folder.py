"""Temporary folders: one of a killed process is removed by the next run, anything else is left alone."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from beam_job.cli.host_limits import HostLimitError
from beam_job.cli.progress_folder import progress_folder
from tests.conftest import ROOT

KILLED = """
import os, signal, sys
from beam_job.cli.progress_folder import progress_folder
with progress_folder() as folder:
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def test_the_folder_of_a_killed_process_is_removed_and_nothing_else(temporary: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    left = Path(killed.stdout.strip())
    assert left.is_dir()
    foreign = temporary / "caption-images-of-somebody"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    (temporary / "caption-images-link").symlink_to(left)
    with progress_folder() as mine, progress_folder() as another:
        assert Path(mine).is_dir()
        assert Path(another).is_dir()
        assert not left.exists()
        assert (foreign / "notes.txt").read_text() == "mine"
    assert not Path(mine).exists()


def test_no_temporary_folder_is_one_line(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", f"{temporary}/missing")
    with pytest.raises(HostLimitError, match=r"no temporary folder can be made: .*TMPDIR"), progress_folder():
        pass
