"""The progress line, with an injected clock and a stream that is or is not a terminal."""

from __future__ import annotations

import functools
import io
import re
from pathlib import Path

import pytest

from beam_job.captioning.progress_file import ProgressFile
from beam_job.cli.logs import log_to
from beam_job.cli.progress import ProgressPrinter, progress_line, read_model_seconds, read_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        pytest.param((0, 0, 3000, None), "0 of 3,000 images (0 %), 0 failed", id="nothing yet"),
        pytest.param(
            (1500, 2, 3000, 50.0),
            "1,500 of 3,000 images (50 %), 2 failed, 50.0 images/s, 0:00:30 left",
            id="half",
        ),
        pytest.param(
            (1, 0, 1_000_000, 10.0),
            "1 of 1,000,000 images (0 %), 0 failed, 10.0 images/s, 27:46:40 left",
            id="more than a day",
        ),
        pytest.param(
            (1500, 2, 3000, 50.0, "model busy 97 %"),
            "1,500 of 3,000 images (50 %), 2 failed, 50.0 images/s, 0:00:30 left, model busy 97 %",
            id="with the model's time",
        ),
    ],
)
def test_line(counts: tuple, line: str) -> None:
    assert progress_line(*counts) == line


def test_counts_of_several_workers_are_added(tmp_path: Path) -> None:
    first, second = ProgressFile(str(tmp_path)), ProgressFile(str(tmp_path))
    for failed in (False, True, False):
        first.add(failed)
    second.add(True)
    first.close()
    second.close()
    assert read_progress(str(tmp_path)) == (4, 2)


def test_where_the_models_time_goes_is_added_over_workers(tmp_path: Path) -> None:
    for model, fetch in ((10.0, 20.0), (50.0, 20.0)):
        worker = ProgressFile(str(tmp_path))
        worker.add(False, functools.partial(dict, model=model, fetch=fetch, decode=0.0, write=0.0))
        worker.close()
    stream = io.StringIO()
    with log_to(stream), ProgressPrinter(str(tmp_path), 2, stream):
        pass
    assert stream.getvalue() == "2 of 2 images (100 %), 0 failed\n"
    assert read_model_seconds(str(tmp_path)) == {"model": 60, "fetch": 40, "decode": 0, "write": 0}


def test_the_file_is_written_twice_a_second(tmp_path: Path) -> None:
    now = [0.0]
    file = ProgressFile(str(tmp_path), clock=lambda: now[0])
    seen = []
    for now[0] in (0.0, 0.2, 0.4, 0.6, 0.8, 1.2):
        file.add(False)
        seen.append(read_progress(str(tmp_path))[0])
    assert seen == [1, 1, 1, 4, 4, 6]


@pytest.mark.parametrize(("stream", "start"), [(Terminal(), "\r"), (io.StringIO(), "4 of 4")])
def test_a_terminal_keeps_one_line_and_a_log_gets_plain_ones(stream: io.StringIO, start: str, tmp_path: Path) -> None:
    with log_to(stream), ProgressPrinter(str(tmp_path), 4, stream):
        worker = ProgressFile(str(tmp_path))
        for _ in range(4):
            worker.add(False)
        worker.close()
    assert stream.getvalue().startswith(start)
    ended = r"100%\|[#█]+\| 4 of 4, .* left, 0 failed" if stream.isatty() else r"4 of 4 images \(100 %\), 0 failed"
    assert re.search(ended, stream.getvalue())
    assert ("\r" in stream.getvalue()) == stream.isatty()


def test_a_terminal_says_that_the_model_is_loaded_until_the_first_image_is_done(tmp_path: Path) -> None:
    stream = Terminal()
    with log_to(stream), ProgressPrinter(str(tmp_path), 4, stream):
        worker = ProgressFile(str(tmp_path))
        worker.add(False)
        worker.close()
    shown = stream.getvalue().split("\r")
    assert "loading the model" in "".join(shown[:3])
    assert "loading the model" not in shown[-1]


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()], ids=["terminal", "log"])
def test_lines_of_workers_are_logged_once_each_on_a_line_of_its_own(stream: io.StringIO, tmp_path: Path) -> None:
    with log_to(stream), ProgressPrinter(str(tmp_path), 4, stream):
        for _ in range(2):
            worker = ProgressFile(str(tmp_path))
            worker.log("short of memory")
            worker.log("shorter still")
            worker.log_info("kept for later")
            worker.add(False)
            worker.close()
    lines = [line.split("\r")[-1] for line in stream.getvalue().split("\n")]
    logged = [line for line in lines if line.startswith("warning: ")]
    assert logged == ["warning: short of memory", "warning: shorter still"]
    assert lines.count("kept for later") == 1
    assert read_progress(str(tmp_path)) == (2, 0)


def test_without_a_folder_lines_are_logged_by_the_worker(caplog: pytest.LogCaptureFixture) -> None:
    ProgressFile(None).log("short of memory")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("WARNING", "short of memory")]
