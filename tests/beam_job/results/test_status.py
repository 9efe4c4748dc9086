"""`status` of runs made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from beam_job.cli.command import main
from beam_job.records import Failure
from tests.outputs import add_run


def status(output: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["status", f"--output={output}"]) == 0
    return capsys.readouterr().out


@pytest.fixture
def output(tmp_path: Path) -> str:
    """An output of a run that ended, over two photographs, one of them captioned."""
    photos = tmp_path / "photos"
    photos.mkdir()
    versions = {}
    for name in ("a.jpg", "b.jpg"):
        (photos / name).write_bytes(b"x")
        stat = (photos / name).stat()
        versions[name] = f"{stat.st_size}-{stat.st_mtime_ns}"
    run = add_run(f"{tmp_path}/out", 1, {f"{photos}/a.jpg": "a dog"}, version=versions["a.jpg"])
    manifest = json.loads(run.storage.read(run.manifest)[0])
    manifest["request"]["inputs"] = [str(photos)]
    run.storage.write(run.manifest, json.dumps(manifest).encode())
    summary = {"captions": 1, "failures": 0, "images_per_second": None}
    run.storage.write(run.summary, json.dumps(summary).encode())
    return f"{tmp_path}/out"


def change_request(output: str, **changes: object) -> None:
    [path] = Path(output, "runs").glob("*/run.json")
    manifest = json.loads(path.read_text())
    manifest["request"] |= changes
    path.write_text(json.dumps(manifest))


def test_a_new_run_does_what_is_left(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = status(output, capsys)
    assert "would caption 1 image and skip 1 image already done" in text
    assert "images/s" not in text  # a resumed run of which nobody knows the speed


def test_recaption_is_not_forgotten(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    change_request(output, recaption=True)
    assert "would caption 2 images again (--recaption)" in status(output, capsys)


@pytest.mark.parametrize("changes", [{"filters": 7}, {"inputs": None}, {"carry_columns": 3}, {"allow": []}])
def test_a_request_that_is_none_is_named(output: str, capsys, changes: dict[str, object]) -> None:
    change_request(output, **changes)
    assert main(["status", f"--output={output}"]) in (0, 1)
    out, error = capsys.readouterr()
    assert "run.json is damaged" in out + error
    assert "current: 1 caption" in out


def test_reasons_say_when_trying_again_helps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failures = [
        Failure(f"{when}.jpg", "fetch", "E", "no", False, retry_when=when) for when in ("later", "options", "content")
    ]
    add_run(f"{tmp_path}/out", 1, {"a": "x"}, failures)
    assert main(["status", f"--output={tmp_path}/out", "--no_listing"]) == 0
    out = capsys.readouterr().out
    for words in ("retried by the next run", "other options or permissions", "when its content changes"):
        assert words in out


@pytest.mark.parametrize("command", ["status", "snapshot", "export", "correct"])
@pytest.mark.parametrize("arguments", [[], ["--output="], ["--output=x", "--nonsense"]])
def test_wrong_usage_is_one_line(tmp_path: Path, capsys, command: str, arguments: list[str]) -> None:
    assert main([command, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("caption-images: ")
    assert f"; see caption-images {command} --help" in error
    assert error.count("\n") == 1
