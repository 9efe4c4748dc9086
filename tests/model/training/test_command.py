"""What the commands share: files that may be replaced, and errors in one line."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from model.engine_choice import EngineError
from model.training.command import (
    OutputError,
    check_output_file,
    check_output_folder,
    replace_file,
    run_command,
    write_output_file,
)

COMMAND = "python -m model compare"


def test_a_file_of_the_same_command_is_replaced(tmp_path: Path) -> None:
    for words in (b"first", b"second"):
        write_output_file(tmp_path / "page", COMMAND, COMMAND.encode() + words)
    assert (tmp_path / "page").read_bytes() == COMMAND.encode() + b"second"
    assert os.listdir(tmp_path) == ["page"]


@pytest.mark.parametrize("content", [b"", b"notes", b"by python -m model explain", b"x" * 2000 + COMMAND.encode()])
def test_any_other_file_is_not(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "page"
    path.write_bytes(content)
    with pytest.raises(OutputError, match=f"^{path} exists and was not written by `{COMMAND}`; delete it or choose"):
        write_output_file(path, COMMAND, COMMAND.encode())
    assert path.read_bytes() == content


def test_what_is_no_file_is_not(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")  # opening it would wait for a writer
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path, tmp_path / "fifo", tmp_path / "link"):
        with pytest.raises(OutputError, match="exists and is not a file"):
            check_output_file(path, COMMAND)


def test_a_replaced_file_has_the_permissions_of_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    replace_file(tmp_path / "file", b"content")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "new").stat().st_mode


def test_a_page_whose_folder_is_not_there_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=f"there is no folder {tmp_path}/nowhere; create it or choose another"):
        check_output_folder(tmp_path / "nowhere" / "page")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=f"{tmp_path}/nowhere/page"):
        replace_file(tmp_path / "nowhere" / "page", b"")


class ResourceExhaustedError(Exception):
    """TensorFlow's error has this name."""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        pytest.param(ValueError("first\nsecond"), "first second", id="two lines"),
        pytest.param(EngineError("no engine"), "no engine", id="engine"),
        pytest.param(
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x.npy"), "x.npy: No space left on device", id="disk"
        ),
        pytest.param(OSError("No usable temporary directory"), "No usable temporary directory", id="temporary folder"),
        pytest.param(MemoryError(), "not enough memory; free some", id="memory"),
        pytest.param(ResourceExhaustedError("OOM when\nallocating"), "not enough memory; free some", id="TensorFlow"),
    ],
)
def test_an_expected_error_is_one_line(error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise error

    assert run_command("train", fail) == 2
    written = capsys.readouterr().err
    assert written.startswith(f"model train: {line}")
    assert written.count("\n") == 1


def test_advice_at_the_end_of_a_long_message_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise ValueError("x" * 500 + "; choose another")

    run_command("train", fail)
    assert capsys.readouterr().err.endswith("; choose another\n")


def test_a_fault_of_the_program_is_not_hidden() -> None:
    with pytest.raises(TypeError):
        run_command("train", lambda: int(None))
