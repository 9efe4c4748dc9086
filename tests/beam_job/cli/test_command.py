"""The command as a process: exit codes, hints that name it, and code of the user's that calls `sys.exit`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from beam_job.cli import demo
from beam_job.cli.command import _same_command, main
from tests.conftest import ROOT
from tests.fakes import FakeCaptioner
from tests.outputs import add_run

_CAPTIONER = """
import sys

if {place!r} == "module":
    sys.exit({code!r})


class Captioner:
    version, input_size = "1", 48

    def caption(self, images):
        if {place!r} == "caption":
            sys.exit({code!r})
        return [[("a dark square", -1.0)] for _ in images]


def make(model, decoding):
    if {place!r} == "function":
        sys.exit({code!r})
    return Captioner()
"""


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(ROOT), str(folder)])
    return subprocess.run(
        [sys.executable, "-m", "beam_job", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_module_of_the_user_that_hides_the_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("layers = 3\n")
    done = run(tmp_path, "--version")
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"caption-images: {tmp_path}/model.py hides the package model of caption-images; rename it")


@pytest.mark.parametrize(
    ("place", "code"), [("module", 0), ("module", 2), ("function", "bye"), ("caption", 0)], ids=lambda value: str(value)
)
def test_sys_exit_in_a_captioner_is_a_failed_run(place: str, code: object, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(_CAPTIONER.format(place=place, code=code))
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (80, 60)).save(tmp_path / "photos" / "black.png")
    done = run(tmp_path, "--input=photos", "--output=out", "--captioner=mine:make")
    assert done.returncode in (1, 2)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("caption-images: ")
    assert f"exit({code!r})" in last.lower()
    assert not list(tmp_path.glob("out/runs/*/_SUCCESS"))


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        pytest.param("statsu", "did you mean status?", id="misspelt"),
        pytest.param("photos", "give images with --input=PATH, or see caption-images --help", id="a folder"),
    ],
)
def test_an_unknown_command(word: str, hint: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([word, "--output=out"]) == 2
    assert capfd.readouterr().err == f"caption-images: unknown command {word}; {hint}\n"


def test_hints_name_the_command_that_was_used(monkeypatch) -> None:
    monkeypatch.setenv("CAPTION_IMAGES_COMMAND", "./run_local.sh")
    assert _same_command(["--input=two words", "--output=out"]) == "./run_local.sh '--input=two words' --output=out"


@pytest.mark.parametrize(
    ("called", "hint"),
    [
        pytest.param(["{script}"], "{script}", id="by its path"),
        pytest.param(["./my folder/run_local.sh"], r"./my\ folder/run_local.sh", id="with a space"),
    ],
)
def test_run_local_passes_on_how_it_was_called(called: list[str], hint: str, tmp_path: Path) -> None:
    """In a copy whose interpreter prints the variable instead of running the job."""
    folder = tmp_path / "my folder"
    (folder / ".venv" / "bin").mkdir(parents=True)
    script = folder / "run_local.sh"
    script.write_bytes((ROOT / "run_local.sh").read_bytes())
    script.chmod(0o755)
    (folder / "setup.py").write_text("")
    checksum = subprocess.run(["cksum"], input="", capture_output=True, text=True, check=True)
    (folder / ".venv" / ".installed").write_text(f"{checksum.stdout.strip()} demo\n")
    python = folder / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\necho "$CAPTION_IMAGES_COMMAND $*"\n')
    python.chmod(0o755)
    command = [word.format(script=script) for word in called]
    expected = hint.format(script=str(script).replace(" ", "\\ "))
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env=_without("EXTRAS"))
    assert done.stdout == f"{expected} -m beam_job demo\n"
    done = subprocess.run(
        [*command, "status"], cwd=tmp_path, capture_output=True, text=True, check=True, env=_without("EXTRAS")
    )
    assert done.stdout == f"{expected} -m beam_job status\n"


def _without(name: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != name}


def test_the_demo_without_its_packages(monkeypatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(demo, "SAMPLES", {"no_such_package": ("a.png",)})
    assert main(["demo"]) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("caption-images: ")
    assert line.endswith("pip install 'caption-images[demo]'")


def test_the_demo_takes_no_input(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["demo", "--input=photos"])
    assert refused.value.code == 2
    assert capfd.readouterr().err == "caption-images: unknown argument --input=photos; see caption-images demo --help\n"


def test_the_demo_logs_each_line_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("beam_job.captioning.caption_shards.load_captioner", lambda *_: FakeCaptioner())
    monkeypatch.setattr(demo, "SAMPLES", {"skimage": ("data/chelsea.png", "data/coffee.png")})
    assert main(["demo"]) == 0
    out, error = capfd.readouterr()
    lines = [line for line in error.splitlines() if "in 1 shard" in line or line.startswith("  captions")]
    assert len(lines) == 2
    assert "chelsea.png" in out


def test_an_estimate_here_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.setattr("beam_job.captioning.caption_shards.load_captioner", lambda *_: FakeCaptioner())
    (tmp_path / "photos").mkdir()
    for number in range(5):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
    command = [f"--input={tmp_path}/photos", f"--output={tmp_path}/out", "--estimate", "--worker_price=2"]
    assert main(command) == 0
    error = capfd.readouterr().err
    assert "measured here: 5 images in " in error
    assert "estimate: 5 images in less than a minute with one process like this" in error
    assert "at $2.00 per hour" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_no_harm(closed: str, tmp_path: Path) -> None:
    add_run(f"{tmp_path}/out", 1, {"/photos/a.jpg": "a dog"})
    command = [sys.executable, "-m", "beam_job", "export", "--format=csv", "--output=out", "--to=set"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *command]
    assert subprocess.run(shell, cwd=tmp_path, env=environment, check=False).returncode == 0
    lines = (tmp_path / "set" / "captions.csv").read_text().splitlines()
    assert len(lines) == 2
    assert "a dog" in lines[1]


def test_a_reader_that_has_had_enough_ends_the_command_in_silence(tmp_path: Path) -> None:
    add_run(f"{tmp_path}/out", 1, {"/photos/a.jpg": "a dog"})
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "beam_job", "status", "--no_listing", "--output=out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")
