"""Only what is new: nights over changing inputs, killed runs, two runs at once, the snapshot of it all."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beam_job.cli.command import main
from beam_job.planning.lease import lease
from model import Decoding
from tests.fakes import FakeCaptioner, with_fake_model


class Nights:
    """A folder of images, and a job that is run over it again and again."""

    def __init__(self, root: Path) -> None:
        self.photos = root / "photos"
        self.photos.mkdir()
        self.output = root / "out"

    def add(self, *names: str, shade: int = 90) -> None:
        for name in names:
            Image.new("RGB", (20, 10), (shade, 60, 30)).save(self.photos / name)

    def run(self, *options: str, inputs: object = None) -> list[str]:
        """Runs the job; the names of the images that this run captioned or failed."""
        before = set(self.rows())
        arguments = [f"--input={inputs or self.photos}", f"--output={self.output}"]
        assert main([*arguments, "--shard_size=3", "--max_failure_ratio=1", *options]) == 0
        return sorted(Path(uri).name for uri, _ in set(self.rows()) - before)

    def rows(self) -> list[tuple[str, str]]:
        """(uri, run) of all rows."""
        return [
            (row["uri"], row["run"])
            for table in ("captions", "failures")
            if (self.output / table).exists()
            for row in ds.dataset(self.output / table, partitioning="hive").to_table(["uri", "run"]).to_pylist()
        ]


def _fake_captioner(bundle: Path, decoding: Decoding, *_: object) -> FakeCaptioner:
    return FakeCaptioner(num_captions=decoding.num_captions)


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    """Runs in this process caption with a fake, since it is which images are captioned that counts here."""
    monkeypatch.setattr("beam_job.captioning.caption_shards.load_captioner", _fake_captioner)
    return Nights(tmp_path)


def test_a_second_night_does_what_is_new_or_changed(nights: Nights, capfd: pytest.CaptureFixture[str]) -> None:
    nights.add("a.png", "b.png", "c.png", "d.png")
    assert nights.run() == ["a.png", "b.png", "c.png", "d.png"]
    nights.add("e.png")
    nights.add("b.png", shade=10)
    (nights.photos / "c.png").unlink()
    assert nights.run() == ["b.png", "e.png"]
    runs = len(list((nights.output / "runs").glob("*/run.json")))
    capfd.readouterr()
    assert nights.run() == []
    assert "nothing to do: 4 images already done" in capfd.readouterr().err
    assert len(list((nights.output / "runs").glob("*/run.json"))) == runs


def test_a_night_without_news_does_not_load_tensorflow(nights: Nights) -> None:
    nights.add("a.png")
    nights.run()
    program = (
        "import sys; from beam_job.cli.command import main; code = main(sys.argv[1:]); "
        "print(code, 'keras' in sys.modules)"
    )
    arguments = [f"--input={nights.photos}", f"--output={nights.output}"]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0 False"


def test_neither_order_nor_form_of_the_input_matters(nights: Nights, tmp_path: Path) -> None:
    nights.add("a.png", "b.png", "c.png")
    nights.run()
    (tmp_path / "uris.txt").write_text("".join(f"{nights.photos}/{name}.png\n" for name in "cab"))
    assert nights.run(inputs=tmp_path / "uris.txt") == []
    nights.add("b.png", shade=1)
    assert nights.run(inputs=tmp_path / "uris.txt") == ["b.png"]


def test_another_model_or_decoding_captions_again(nights: Nights, tmp_path: Path) -> None:
    nights.add("a.png")
    nights.run()
    assert nights.run("--decoding=greedy") == ["a.png"]
    assert nights.run("--decoding=greedy") == []
    assert nights.run() == []
    assert nights.run("--recaption") == ["a.png"]


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


def test_permanent_failures_wait_for_another_file(nights: Nights) -> None:
    (nights.photos / "bad.jpg").write_text("no image")
    nights.add("a.png")
    nights.run()
    assert nights.run("--retry=transient") == nights.run("--retry=none") == []
    assert nights.run("--retry=all") == ["bad.jpg"]
    for retry in ("transient", "none"):
        (nights.photos / "bad.jpg").write_text(f"no image either, {retry}")
        assert nights.run(f"--retry={retry}") == ["bad.jpg"]


def test_transient_failures_are_tried_again(nights: Nights, tmp_path: Path) -> None:
    """A server that does not answer and a missing file may both come back, so each run tries them again."""
    (tmp_path / "uris.txt").write_text(f"http://127.0.0.1:9/x.jpg\n{nights.photos}/late.png\n")
    options = ["--fetch_timeout=0.3", "--allow_schemes=http,https", "--allow_private_addresses"]
    assert nights.run(*options, inputs=tmp_path / "uris.txt") == ["late.png", "x.jpg"]
    assert nights.run(*options, inputs=tmp_path / "uris.txt") == ["late.png", "x.jpg"]
    assert nights.run(*options, "--retry=none", inputs=tmp_path / "uris.txt") == []
    nights.add("late.png")
    assert nights.run(*options, "--retry=none", inputs=tmp_path / "uris.txt") == ["late.png"]


KILL_AFTER_TWO_SHARDS = """
import os, sys
from beam_job.captioning import open_shard
commits = []
commit_shard = open_shard.commit_shard

def commit_and_die(*arguments):
    report = commit_shard(*arguments)
    commits.append(report)
    if len(commits) == 2:
        os.kill(os.getpid(), 9)
    return report

open_shard.commit_shard = commit_and_die
from beam_job.cli.command import main
main(sys.argv[1:])
"""


def test_a_killed_run_is_continued_by_the_same_command(nights: Nights, capfd: pytest.CaptureFixture[str]) -> None:
    nights.add(*(f"{n}.png" for n in range(12)))
    arguments = [f"--input={nights.photos}", f"--output={nights.output}", "--shard_size=3"]
    killed = subprocess.run(
        [sys.executable, "-c", KILL_AFTER_TWO_SHARDS, *arguments, "--max_failure_ratio=1"],
        env=with_fake_model(),
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -9
    assert len(nights.rows()) == 6
    parts = {path: path.stat().st_mtime_ns for path in nights.output.rglob("part-*.parquet")}
    assert len(nights.run()) == 6
    assert "resuming run" in capfd.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in parts} == parts  # not done again
    uris = [uri for uri, _ in nights.rows()]
    assert len(uris) == len(set(uris)) == 12
    assert len({run for _, run in nights.rows()}) == 1
    assert nights.run() == []


def test_carried_columns_reach_the_output(nights: Nights, tmp_path: Path) -> None:
    nights.add("a.png", "b.png")
    lines = [{"url": str(nights.photos / f"{name}.png"), "label": name, "n": n} for n, name in enumerate("ab")]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    nights.run("--uri_column=url", "--carry_columns=n,label", inputs=tmp_path / "list.jsonl")
    table = ds.dataset(nights.output / "captions").to_table()
    assert [(row["n"], row["label"], Path(row["uri"]).name) for row in table.to_pylist()] == [
        (0, "a", "a.png"),
        (1, "b", "b.png"),
    ]


def write_list(path: Path, uris: list[str]) -> None:
    """A list of `uris` with a column `label` of their numbers, in the form that the name tells."""
    table = pa.table({"uri": uris, "label": [str(number) for number in range(len(uris))]})
    plain, text = path.name.removesuffix(".gz"), io.BytesIO()
    if plain.endswith(".parquet"):
        pq.write_table(table, text)
    else:
        pyarrow.csv.write_csv(table, text)
    path.write_bytes(gzip.compress(text.getvalue()) if path.suffix == ".gz" else text.getvalue())


@pytest.mark.parametrize("name", ["list.csv.gz", "list.parquet"])  # see inputs/test_lists.py
def test_forms_of_list_from_end_to_end(nights: Nights, tmp_path: Path, name: str) -> None:
    nights.add("a.png", "b.png")
    write_list(tmp_path / name, [str(nights.photos / "b.png"), str(nights.photos / "a.png")])
    assert nights.run("--carry_columns=label", inputs=tmp_path / name) == ["a.png", "b.png"]
    rows = ds.dataset(nights.output / "captions").to_table().to_pylist()
    assert [(Path(row["uri"]).name, row["label"]) for row in rows] == [("b.png", "0"), ("a.png", "1")]


def test_an_inventory_report_from_end_to_end(bucket, nights: Nights, tmp_path: Path) -> None:
    nights.add("a.png", "b.png")
    blobs = [bucket.blob(f"photos/{name}") for name in ("a.png", "b.png")]
    for blob in blobs:
        blob.upload_from_filename(str(nights.photos / Path(blob.name).name))
    rows = [
        {
            "bucket": bucket.name,
            "name": blob.name,
            "generation": blob.generation,
            "size": blob.size,
            "crc32c": blob.crc32c,
        }
        for blob in blobs
    ]
    pyarrow.csv.write_csv(pa.Table.from_pylist(rows), tmp_path / "report_0.csv")
    (tmp_path / "report_manifest.json").write_text(json.dumps({"report_shards_file_names": ["report_0.csv"]}))
    manifest = tmp_path / "report_manifest.json"
    allowed = f"--allow_buckets=gs://{bucket.name}"
    assert nights.run(allowed, inputs=manifest) == ["a.png", "b.png"]
    versions = ds.dataset(nights.output / "captions").to_table()["object_version"].to_pylist()
    assert versions == [str(blob.generation) for blob in blobs]
    assert nights.run(allowed, inputs=manifest) == []


def test_filters_decide_what_is_captioned(nights: Nights) -> None:
    nights.add("a.png", "b.png", "c.png")
    assert nights.run("--exclude=b.*", "--limit=1") == ["a.png"]
    assert nights.run("--include=?.png") == ["b.png", "c.png"]


def test_filters_that_leave_nothing_are_a_night_without_work(nights: Nights, capfd: pytest.CaptureFixture[str]) -> None:
    nights.add("a.png")
    assert main([f"--input={nights.photos}", f"--output={nights.output}", "--include=*.gif"]) == 0
    error = capfd.readouterr().err
    assert "none of the 1 images listed passes the filters (--include=*.gif)" in error
    assert "nothing to do, model" in error
    assert not nights.output.exists()


def test_a_second_run_at_the_same_time_is_refused(nights: Nights, capfd: pytest.CaptureFixture[str]) -> None:
    nights.add("a.png")
    with lease(str(nights.output)):
        assert main([f"--input={nights.photos}", f"--output={nights.output}"]) == 3
    error = capfd.readouterr().err
    assert f"another run is writing to this output: process {os.getpid()}" in error
    assert nights.run() == ["a.png"]


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


def test_three_nights_over_a_bucket(bucket, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    """The listing's generations tell what is new: 40 objects; 6 added, 4 overwritten, 3 deleted; nothing."""
    monkeypatch.setattr("beam_job.captioning.caption_shards.load_captioner", _fake_captioner)

    def upload(number: int, shade: int) -> None:
        content = io.BytesIO()
        Image.new("RGB", (20, 10), (shade, 60, 30)).save(content, "PNG")
        bucket.blob(f"photos/{number:03d}.png").upload_from_string(content.getvalue())

    def night() -> str:
        root = f"gs://{bucket.name}"
        assert main([f"--input={root}/photos/", f"--output={root}/out", "--shard_size=16"]) == 0
        return capfd.readouterr().err

    for number in range(40):
        upload(number, 90)
    assert "40 captions and 0 failures of 40 images" in night()
    for number in range(40, 46):
        upload(number, 90)
    for number in range(10, 14):
        upload(number, 10)
    for number in range(3):
        bucket.blob(f"photos/{number:03d}.png").delete()
    assert "10 captions and 0 failures of 10 images" in night()
    assert "nothing to do: 43 images already done" in night()
    assert main(["status", f"--output=gs://{bucket.name}/out"]) == 0
    status = capfd.readouterr().out
    assert "current: 46 captions, 0 failures" in status
    assert "would caption 0 images and skip 43 images already done" in status


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
