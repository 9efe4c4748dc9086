"""A machine, or a limit of the process, that has too little of something: one line that says what to do."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_job.cli.graph import root_cause
from beam_job.cli.host_limits import host_limit
from beam_job.storage import StorageError
from tests.conftest import ROOT

REMOTE = """\
Error in a worker: Traceback (most recent call last):
  File "worker.py", line 1, in process
    pixels = bytearray(size)
MemoryError [while running 'Caption']
"""
NO_TEMPORARY_FOLDER = """
import tempfile
tempfile._candidate_tempdir_list = lambda: ["/nonexistent"]
from beam_job.cli.command import command
command()
"""


def caused_by(cause: BaseException) -> Exception:
    error = ImportError("the library cannot be loaded")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        pytest.param(MemoryError(), "out of memory: raise the limit", id="memory"),
        pytest.param(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "out of memory", id="memory of the system"),
        pytest.param(RuntimeError(REMOTE), "out of memory", id="memory of a worker process"),
        pytest.param(
            ImportError("loading failed\nlib.so.2: failed to map segment from shared object"),
            "out of memory",
            id="library",
        ),
        pytest.param(caused_by(MemoryError()), "out of memory", id="a cause"),
        pytest.param(RuntimeError("can't start new thread"), "no more threads or processes", id="threads"),
        pytest.param(BlockingIOError(errno.EAGAIN, "fork"), "no more threads or processes", id="processes"),
        pytest.param(OSError(errno.EMFILE, "open"), "too many open files", id="open files"),
        pytest.param(OSError(errno.ENOSPC, "write"), "TMPDIR", id="full disk"),
        pytest.param(OSError(errno.EDQUOT, "write"), "TMPDIR", id="quota"),
        pytest.param(OSError(errno.EFBIG, "write"), "ulimit -f", id="size of files"),
    ],
)
def test_the_advice_names_what_is_missing(error: Exception, advice: str) -> None:
    reason = host_limit(error)
    assert reason
    assert advice in reason
    assert "\n" not in reason
    assert root_cause(error, PipelineOptions([])) == (reason, True)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file"),
        KeyError("MemoryErrors"),
        RuntimeError("MemoryError\nwas handled"),
    ],
    ids=["missing file", "a word in a key", "an earlier line"],
)
def test_other_errors_are_left_alone(error: Exception) -> None:
    assert host_limit(error) is None


def test_a_full_disk_of_the_output_is_not_one_of_temporary_files() -> None:
    error = StorageError("out/part.parquet: No space left on device; make room")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert root_cause(error, PipelineOptions([])) == (str(error), True)


def run(folder: Path, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    (folder / "photos").mkdir()
    (folder / "photos" / "a.jpg").write_bytes(b"never read")
    command = [sys.executable, *arguments, "--input=photos", "--output=out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("limit", [400_000_000, 1_600_000_000, 3_900_000_000], ids=["0.4 GB", "1.6 GB", "3.9 GB"])
def test_too_little_address_space(limit: int, tmp_path: Path) -> None:
    done = run(tmp_path, "-m", "beam_job", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert f"limited to {limit / 1e9:.1f} GB; a run needs at least 4 GB: raise the limit (ulimit -v)" in line
    assert not (tmp_path / "out").exists()


def test_no_folder_for_temporary_files(tmp_path: Path) -> None:
    done = run(tmp_path, "-c", NO_TEMPORARY_FOLDER)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("caption-images: there is no writable folder for temporary files: name one with")
    assert not (tmp_path / "out").exists()
