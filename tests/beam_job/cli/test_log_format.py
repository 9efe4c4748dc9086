"""What reaches stderr: a bar on a terminal, plain lines in a log, JSON on request; nobody else has a word in it."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.fakes import with_fake_model
from tests.images import encode


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.png").write_bytes(encode(Image.new("RGB", (30, 20), (number,) * 3), "PNG"))
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


def command(photos: Path, *options: str) -> list[str]:
    given = [f"--input={photos}", f"--output={photos.parent}/out", "--batch_size=2", *options]
    return [sys.executable, "-m", "beam_job", *given]


def stderr_of(arguments: list[str], code: int = 0, **variables: str) -> str:
    done = subprocess.run(
        arguments, cwd=ROOT, env=with_fake_model(**variables), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    return done.stderr


def objects(stderr: str) -> list[dict]:
    found = [json.loads(line) for line in stderr.splitlines()]
    assert all({"time", "severity", "message"} <= set(line) for line in found)
    return found


def test_a_log_has_plain_lines_of_ours_alone(photos: Path) -> None:
    lines = stderr_of(command(photos)).splitlines()
    progress = re.compile(r"(\d) of 6 images \(\d+ %\), \d failed(, .*)?")
    # One line every five seconds: on a busy machine there are several, and the last has all images.
    assert [re.match(progress, line)[1] for line in lines if progress.fullmatch(line)][-1] == "6"
    lines = [line for line in lines if not progress.fullmatch(line)]
    told = [
        r"6 images in 1 shard, run \S+, model \S+",
        r"5 captions and 1 failure of 6 images in .*",
        r"  captions  \S+/out/captions/run=\S+",
        r"  failures  \S+/out/failures/run=\S+",
        r"            1 x decode: ImageError, such as \S+: .+",
        r"  page      \S+/index\.html",
        r"  time      model busy \d+%; waiting for fetch .*",
        r"  next      caption-images snapshot --output=\S+ --to=DIR, or export, or status",
    ]
    for pattern, line in zip(told, lines, strict=True):
        assert re.fullmatch(pattern, line)


def test_a_log_collector_meets_objects_alone(photos: Path) -> None:
    lines = objects(stderr_of(command(photos, "--log_format=json")))
    [summary] = [line for line in lines if "failures_by_reason" in line]
    assert (summary["captions"], summary["failures"], summary["severity"]) == (5, 1, "INFO")
    [*_, progress] = [line for line in lines if "total" in line]
    assert (progress["done"], progress["failed"], progress["total"]) == (6, 1, 6)


@pytest.mark.parametrize(
    "wrong", [pytest.param("--no_such_option", id="usage"), pytest.param("--shard_size=0", id="value")]
)
def test_what_is_refused_is_an_object_too(wrong: str, photos: Path) -> None:
    [*_, last] = objects(stderr_of(command(photos, "--log_format", "json", wrong), code=2))
    assert wrong.split("=")[0] in last["message"]


def test_too_many_failures_are_an_error(photos: Path) -> None:
    [*_, last] = objects(stderr_of(command(photos, "--log_format=json", "--max_failure_ratio=0"), code=1))
    assert last["severity"] == "ERROR"


def test_the_words_at_a_signal_are_an_object_too(photos: Path, tmp_path: Path) -> None:
    hung = tmp_path / "hung"
    process = subprocess.Popen(
        command(photos, "--log_format=json"),
        cwd=ROOT,
        env=with_fake_model(BATCHES="0", HUNG=str(hung)),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    [*_, last] = objects(first + process.communicate(timeout=60)[1])
    assert process.returncode == 143
    assert "to resume: caption-images" in last["message"]


def test_a_terminal_has_a_bar(photos: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command(photos), cwd=ROOT, env=with_fake_model(), stderr=theirs, stdout=theirs)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 1 << 16):
            shown += part
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait(timeout=60) == 0
    bar = [line for line in shown.decode().split("\r") if line.startswith("100%|")][-1]
    assert re.search(r"\| 6 of 6, .* left, 1 failed", bar)
