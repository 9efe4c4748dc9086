"""Outputs of several runs with other options, as snapshots, `status` and readers of Parquet see them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from beam_job.cli.command import main
from tests.nights import Nights


def test_another_min_score_marks_new_images_and_captions_none_again(
    nights: Nights, capfd: pytest.CaptureFixture[str]
) -> None:
    for shade in (50, 90, 120):  # their scores are -0.47, -0.6 and -0.7
        nights.add(f"{shade}.png", shade=shade)
    assert nights.run("--min_score=-0.65", "--limit=2") == ["120.png", "50.png"]
    assert "\n            1 (50%) below --min_score=-0.65: low_confidence\n" in capfd.readouterr().err
    [summary] = nights.output.glob("runs/*/summary.json")
    assert json.loads(summary.read_text())["low_confidence"] == 1
    assert nights.run("--min_score=-0.5") == ["90.png"]
    rows = ds.dataset(nights.output / "captions").to_table(["score", "low_confidence"]).to_pylist()
    assert {round(row["score"], 1): row["low_confidence"] for row in rows} == {-0.5: False, -0.6: True, -0.7: True}
    assert nights.run("--min_score=-0.68") == []
    said = "--min_score=-0.68 flags new captions only; to flag all: caption-images snapshot "
    assert said in capfd.readouterr().err
    to = nights.output.parent / "snapshot"
    assert main(["snapshot", f"--output={nights.output}", f"--to={to}", "--min_score=-0.68"]) == 0
    rows = ds.dataset(to / "data").to_table(["score", "low_confidence"]).to_pylist()
    assert {round(row["score"], 1): row["low_confidence"] for row in rows} == {-0.5: False, -0.6: False, -0.7: True}
    assert main(["snapshot", f"--output={nights.output}", f"--to={to}", "--min_score=0.5"]) == 2
    assert "--min_score must be at most 0, as all scores are, not 0.5" in capfd.readouterr().err


def test_files_of_runs_with_other_options_are_read_as_one_data_set(nights: Nights, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    nights.add("a.png", "b.png", "c.png")
    for name, options in (("a.png", []), ("b.png", ["--num_captions=2"]), ("c.png", ["--min_score=-0.5"])):
        nights.run(f"--include={name}", *options)
    files = sorted(map(str, nights.output.glob("captions/*/*.parquet")))
    assert len({pq.read_schema(file).remove_metadata().to_string() for file in files}) == 1
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    found = {Path(row["uri"]).name: (row["captions"] is None, row["low_confidence"] is None) for row in rows}
    assert found == {"a.png": (True, True), "b.png": (False, True), "c.png": (True, False)}


def test_snapshot_has_each_uri_once_with_its_newest_caption(nights: Nights, tmp_path: Path) -> None:
    nights.add("a.png", "b.png", "c.png", "d.png")
    (nights.photos / "bad.jpg").write_text("no image")
    nights.run()
    nights.add("b.png", shade=5)
    (nights.photos / "c.png").write_text("no image any more")
    nights.run("--num_captions=2")
    to = tmp_path / "snapshot"
    assert main(["snapshot", f"--output={nights.output}", f"--to={to}", "--max_rows=2"]) == 0
    assert sorted(os.listdir(to / "data")) == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    rows = {Path(row["uri"]).name: row for row in ds.dataset(to / "data").to_table().to_pylist()}
    assert sorted(rows) == ["a.png", "b.png", "d.png"]
    newest = max(run for _, run in nights.rows())
    assert {row["run"] for row in rows.values()} == {newest}  # other options: everything was captioned again
    failures = ds.dataset(to / "failures").to_table().to_pylist()
    assert sorted(Path(row["uri"]).name for row in failures) == ["bad.jpg", "c.png"]


def test_snapshot_unites_the_columns_of_different_runs_and_replaces_itself(nights: Nights, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    nights.add("a.png", "b.png")
    nights.run("--include=a.png")
    nights.run("--include=b.png", "--num_captions=2")
    to = tmp_path / "snapshot"
    assert main(["snapshot", f"--output={nights.output}", f"--to={to}", "--max_rows=1"]) == 0
    assert main(["snapshot", f"--output={nights.output}", f"--to={to}"]) == 0
    assert os.listdir(to / "data") == ["train-00000-of-00001.parquet"]
    loaded = datasets.load_dataset(str(to), split="train", cache_dir=str(tmp_path / "cache"))
    assert sorted((Path(row["uri"]).name, row["captions"] is None) for row in loaded) == [
        ("a.png", True),
        ("b.png", False),
    ]


def test_status_tells_of_runs_and_reasons_and_of_what_is_next(nights: Nights, capsys) -> None:
    nights.add("a.png", "b.png")
    (nights.photos / "bad.jpg").write_text("no image")
    nights.run()
    nights.add("c.png")
    capsys.readouterr()
    assert main(["status", f"--output={nights.output}"]) == 0
    status = capsys.readouterr().out
    assert "done, 2 captions, 1 failure, 0 already done" in status
    assert "current: 2 captions, 1 failure\n  1 x decode: ImageError (retried when its content changes)" in status
    assert (
        "would caption 1 image and skip 2 images already done, 1 failed for good (--retry=all tries it again)" in status
    )


def test_status_of_nothing(tmp_path: Path, capsys) -> None:
    assert main(["status", f"--output={tmp_path}/none"]) == 2
    assert "no run has been started" in capsys.readouterr().err


def test_snapshot_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["snapshot", f"--output={tmp_path}/none", f"--to={tmp_path}/snapshot"]) == 2
    assert f"no run has been started in {tmp_path}/none; is it the --output of a run?" in capsys.readouterr().err
    assert not (tmp_path / "snapshot").exists()
