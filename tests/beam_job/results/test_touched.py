"""Files whose time changes while their content stays: copies, restored backups, `touch`."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import duckdb
import pytest
from PIL import Image

from beam_job.cli.command import main
from tests.images import encode
from tests.reviewed import Captioner


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("beam_job.captioning.caption_shards.load_captioner", lambda *_: Captioner())
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        write(folder / f"{number}.png", 50 + number)
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def write(path: Path, brightness: int) -> None:
    path.write_bytes(encode(Image.new("RGB", (9, 9), (brightness,) * 3), "PNG"))


def touch(folder: Path) -> None:
    for path in folder.iterdir():
        os.utime(path, ns=(1, path.stat().st_mtime_ns + 10**9))


def caption(photos: Path, *options: str) -> int:
    return main([f"--input={photos}", f"--output={photos.parent / 'out'}", "--no_report", *options])


def captions(tmp_path: Path) -> dict[str, tuple[str, str | None]]:
    """The caption and the correction of each file name, as `snapshot` gives them."""
    assert main(["snapshot", f"--output={tmp_path}/out", f"--to={tmp_path}/newest"]) == 0
    rows = duckdb.sql(f"select uri, caption, correction from '{tmp_path}/newest/data/*.parquet'").fetchall()
    return {Path(uri).name: (text, correction) for uri, text, correction in rows}


def correct(tmp_path: Path, name: str, text: str) -> None:
    [(uri, version)] = duckdb.sql(
        f"select uri, object_version from '{tmp_path}/out/captions/*/*.parquet' where uri like '%/{name}'"
    ).fetchall()
    line = json.dumps({"uri": uri, "object_version": version, "caption": text})
    (tmp_path / "corrections.jsonl").write_text(line + "\n")
    assert main(["correct", f"--output={tmp_path}/out", f"{tmp_path}/corrections.jsonl"]) == 0


def test_the_same_content_is_not_captioned_again(photos: Path, tmp_path: Path, capsys) -> None:
    assert caption(photos) == 0
    touch(photos)
    copy = tmp_path / "copy"
    shutil.copytree(photos, copy, copy_function=shutil.copy)
    shutil.rmtree(photos)
    copy.rename(photos)
    write(photos / "1.png", 91)  # as large as before
    assert photos.joinpath("1.png").stat().st_size == photos.joinpath("2.png").stat().st_size
    capsys.readouterr()
    assert caption(photos) == 0
    assert "1 image in 1 shard, 3 images already done, 1 failed for good" in capsys.readouterr().err
    assert captions(tmp_path)["1.png"] == ("brightness 91", None)


@pytest.mark.parametrize("again", [(), ("--recaption",)], ids=["nothing new", "captioned again"])
def test_corrections_survive(again: tuple[str, ...], photos: Path, tmp_path: Path) -> None:
    assert caption(photos) == 0
    correct(tmp_path, "2.png", "a grey wall")
    touch(photos)
    assert caption(photos, *again) == 0
    assert captions(tmp_path)["2.png"] == ("a grey wall", "edited")
    write(photos / "2.png", 99)
    assert caption(photos) == 0
    assert captions(tmp_path)["2.png"] == ("brightness 99", None)


def test_export_takes_a_file_of_another_time(photos: Path, tmp_path: Path, capsys) -> None:
    assert caption(photos) == 0
    touch(photos)
    for images in ("copy", "link"):
        to = f"--to={tmp_path}/{images}"
        assert main(["export", f"--output={tmp_path}/out", "--format=hf", f"--images={images}", to]) == 0
        assert "4 captions" in capsys.readouterr().out
