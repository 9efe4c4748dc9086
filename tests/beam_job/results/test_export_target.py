"""The folder that an export writes: refused in one line, filled whole or not at all, never replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from beam_job.cli.command import main
from tests.exported import Job

pytestmark = pytest.mark.usefixtures("nothing_escapes")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        pytest.param(
            ["--format=csv", "--images=link"], "--images is for the format hf, sidecar, not for csv", id="csv"
        ),
        pytest.param(["--format=hf", "--root=x"], "--root is for the format sidecar, not for hf", id="root"),
        pytest.param(["--format=hf", "--images=none"], "give one of copy, link, embed", id="images"),
        pytest.param(["--format=webdataset", "--max_rows=0"], "--max_rows must be a whole number from 1", id="rows"),
        pytest.param(["--format=csv", "--to=gs://bucket/x"], "must be a local folder", id="bucket"),
        pytest.param(
            ["--format=csv", "--fetch_timeout=0"], "--fetch_timeout must be a number of seconds above 0", id="timeout"
        ),
        pytest.param(["--format=csv", "--fetch_timeout=nan"], "must be a number of seconds above 0, not nan", id="NaN"),
        pytest.param(["--format=csv", "--fetch_timeout=inf"], "must be a number of seconds above 0, not inf", id="inf"),
        pytest.param(["--format=webdataset", "--max_bytes=-5"], "--max_bytes must be a whole number", id="bytes"),
        pytest.param(["--format=csv", "--output=/none"], "there is no caption in /none", id="no output"),
        pytest.param(["--format=csv", "--allow_schemes=ftp"], "not 'ftp'", id="scheme"),
    ],
)
def test_wrong_usage_is_one_line(job: Job, tmp_path: Path, capfd, options: list[str], told: str) -> None:
    assert main(["export", f"--output={job.output}", f"--to={tmp_path}/x", *options]) == 2
    error = capfd.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_a_folder_that_holds_something_is_left_alone(job: Job, tmp_path: Path, capfd) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert job.export("csv", tmp_path / "full") == 2
    assert "exists and is not an empty folder; name a new folder, or remove it first" in capfd.readouterr().err
    assert os.listdir(tmp_path / "full") == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert job.export("csv", tmp_path / "empty") == 0
    assert job.export("csv", tmp_path / "full" / "mine.txt" / "x") == 1
    assert f"cannot write {tmp_path}/full/mine.txt/x: " in capfd.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["empty", "full"]


def test_an_empty_folder_is_filled_and_stays(job: Job, tmp_path: Path) -> None:
    """A mounted volume is such a folder: it can be neither renamed nor replaced."""
    (tmp_path / "volume").mkdir(mode=0o750)
    (tmp_path / "link").symlink_to("volume")
    folder = (tmp_path / "volume").stat().st_ino
    assert job.export("csv", tmp_path / "link") == 0
    assert os.listdir(tmp_path / "volume") == ["captions.csv"]
    assert (tmp_path / "volume").stat().st_ino == folder
    assert (tmp_path / "link").is_symlink()


def test_an_export_that_breaks_off_leaves_nothing(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("beam_job.results.export.command.write_csv", full)
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        assert job.export("csv", tmp_path / name) == 1
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["empty"]


@pytest.mark.parametrize("fills", [True, False])
def test_what_comes_to_its_place_meanwhile_is_not_replaced(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd, fills: bool
) -> None:
    to = tmp_path / "to"
    if fills:
        to.mkdir()

    def slow(tables: object, folder: str, *_: object) -> tuple[int, int]:
        to.mkdir(exist_ok=True)
        Path(folder, "captions.csv").write_text("ours")
        (to / "captions.csv").write_text("theirs")
        return 1, 0

    monkeypatch.setattr("beam_job.results.export.command.write_csv", slow)
    assert job.export("csv", to) == 2
    assert "by another process during the export" in capfd.readouterr().err
    assert {path.name: path.read_text() for path in to.iterdir()} == {"captions.csv": "theirs"}
    assert os.listdir(tmp_path) == ["to"]
