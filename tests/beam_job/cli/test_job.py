"""The job end to end, as a user runs it: the real command, real photographs, the bundled model, real Parquet."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from beam_job.cli.command import main
from model import DEFAULT_BUNDLE, check_bundle, load_captioner, load_image
from tests.outputs import only_run, table
from tests.photographs import GOOD, fill


def caption_images(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "beam_job", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, timeout=240)


@pytest.fixture(scope="module")
def expected(photographs) -> dict[str, str]:
    """The captions of the model alone, without the job."""
    captioner = load_captioner()
    size = captioner.input_size
    return {
        name: captioner.caption(load_image(photographs[name].read_bytes(), size).pixels[None])[0][0].text
        for name in GOOD
    }


@pytest.fixture(scope="module")
def by_workers(
    photographs, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, tuple[Path, subprocess.CompletedProcess[str]]]:
    """The output and the ended command by --workers, of the same folder; one worker runs in this process."""
    root = tmp_path_factory.mktemp("by-workers")
    folder = fill(root / "photos", photographs)
    options = [f"--input={folder}", "--shard_size=2"]
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        code = main([*options, f"--output={root}/out-1"])
    one = subprocess.CompletedProcess([], code, stderr=printed.getvalue())
    two = caption_images(*options, f"--output={root}/out-2", "--workers=2")
    return {1: (root / "out-1", one), 2: (root / "out-2", two)}


@pytest.mark.parametrize("workers", [1, 2])
def test_good_images_become_captions_and_the_others_failures(
    workers: int, by_workers: dict[int, tuple[Path, subprocess.CompletedProcess[str]]], expected: dict[str, str]
) -> None:
    output, done = by_workers[workers]
    assert done.returncode == 0, done.stderr
    captions = {Path(row["uri"]).name: row for row in table(output, "captions")}
    assert {name: row["caption"] for name, row in captions.items()} == expected
    assert captions["chelsea.png"]["width"] == 451
    assert captions["chelsea.png"]["height"] == 300
    assert captions["flower.jpg"]["uri"] == str(output.parent / "photos" / "sub" / "flower.jpg")
    assert {row["model_version"] for row in captions.values()} == {check_bundle(DEFAULT_BUNDLE)}
    failures = {Path(row["uri"]).name: row for row in table(output, "failures")}
    assert set(failures) == {"text.jpg", "empty.jpg", "truncated.jpg"}
    assert {(row["stage"], row["transient"]) for row in failures.values()} == {("decode", False)}
    assert failures["empty.jpg"]["error_message"] == "the file is empty"
    assert "6 captions and 3 failures of 9 images" in done.stderr
    assert "INFO" not in done.stderr
    assert "WARNING" not in done.stderr


def test_two_workers_write_the_rows_of_one(
    by_workers: dict[int, tuple[Path, subprocess.CompletedProcess[str]]],
) -> None:
    """In all columns but the run's name and the time; batches differ, and a score's last digits with them."""
    for name in ("captions", "failures"):
        one, two = (sorted(table(output, name), key=lambda row: row["uri"]) for output, _ in by_workers.values())
        assert len(one) == len(two) > 0
        for first, second in zip(one, two, strict=True):
            assert first.pop("score", 0.0) == pytest.approx(second.pop("score", 0.0), abs=1e-4)
            same = {key for key in first if key != "run" and not key.endswith("_at")}
            assert {key: first[key] for key in same} == {key: second[key] for key in same}


@pytest.fixture(scope="module")
def finished(photographs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run with two captions an image and one failure."""
    root = tmp_path_factory.mktemp("finished")
    uris = [str(photographs[name]) for name in GOOD] + [f"{root}/missing.jpg", str(photographs["coffee.png"])]
    (root / "uris.txt").write_text("\n".join(uris))
    roots = {f"--allow_root={path.parent}" for path in photographs.values()}
    options = [f"--output={root}/out", "--num_captions=2", "--shard_size=3"]
    assert main([f"--input={root}/uris.txt", *roots, *options]) == 0
    return root / "out"


def test_the_summary_tells_what_happened(photographs, finished: Path) -> None:
    summary = json.loads((only_run(finished) / "summary.json").read_text())
    assert (summary["inputs"], summary["captions"], summary["failures"]) == (7, 6, 1)
    assert summary["failures_by_reason"] == {"fetch: FileNotFoundError": 1}
    assert summary["images_per_second"] == pytest.approx(7 / summary["seconds"], rel=0.01, abs=0.01)  # both rounded
    captioning = summary["seconds_by_stage"]["caption"]
    assert summary["ran_with"] == [{"engine": "litert", "precision": "int8", "batch_size": 32, "shards": 3}]
    assert set(summary["seconds_by_stage"]) == {"fetch", "decode", "caption", "write"}
    assert set(summary["wait_seconds"]) == {"fetch", "decode", "write"}
    assert summary["wait_seconds"]["write"] > 0  # of the last shard, with which nothing else is left to do
    working = captioning + sum(summary["wait_seconds"].values())
    assert summary["model_share"] == pytest.approx(captioning / working, abs=0.01)
    assert 0 < captioning < working < summary["seconds"]
    assert summary["bytes_fetched"] == sum(path.stat().st_size for path in map(photographs.__getitem__, GOOD))
    assert 0 < summary["batch_fill"] <= 6 / 32  # six images, in one batch or several
    assert summary["model"] == check_bundle(DEFAULT_BUNDLE)
    assert summary["options"]["decoding"]["num_captions"] == 2


def test_the_run_keeps_its_plan_and_its_mark_of_success(finished: Path) -> None:
    run = only_run(finished)
    of_the_page = {"index.html", "thumbnails"}
    assert {path.name for path in run.iterdir()} == {"run.json", "plan", "summary.json", "_SUCCESS"} | of_the_page
    assert len(pd.read_parquet(run / "plan")) == 7
    times = {
        path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file() and path.parent.name != "_LEASE"
    }
    assert times[run / "_SUCCESS"] == max(times.values())


def test_nothing_but_whole_files_is_left(finished: Path) -> None:
    assert not [path for path in finished.rglob("*") if ".tmp" in path.name]


def test_pandas_duckdb_and_datasets_read_it(finished: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    frame = pd.read_parquet(finished / "captions")
    assert len(frame) == 6
    assert set(frame["run"].astype(str)) == {only_run(finished).name}
    assert frame["captions"].map(len).eq(2).all()
    assert frame["captioned_at"].dt.tz is not None
    pattern = f"{finished}/captions/*/*.parquet"
    [(count, best)] = duckdb.sql(
        f"select count(*), bool_and(caption = captions[1] and score = scores[1]) from '{pattern}'"
    ).fetchall()
    assert (count, best) == (6, True)
    loaded = datasets.load_dataset("parquet", data_files=pattern, split="train", cache_dir=str(tmp_path))
    assert loaded.num_rows == 6
    assert loaded.features["captions"].feature.dtype == "string"


def test_relative_paths_are_the_callers(folder: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    done = caption_images("--input=photos/**/*.png", "--output=out", f"--model={tiny_bundle}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(table(tmp_path / "out", "captions")) == 3


def test_direct_runner_is_the_in_process_engine(
    folder: Path, tmp_path: Path, tiny_bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--input={folder}", f"--output={tmp_path}/out", f"--model={tiny_bundle}", "--runner=DirectRunner"]
    assert main([*arguments, "--verbose"]) == 0
    assert "prism" not in capfd.readouterr().err.lower()


def test_bucket_to_bucket(bucket, folder: Path, tiny_bundle: Path) -> None:
    for path in folder.iterdir():
        if path.is_file():
            bucket.blob(f"photos/{path.name}").upload_from_filename(str(path))
    root = f"gs://{bucket.name}"
    assert main([f"--input={root}/photos", f"--output={root}/out", f"--model={tiny_bundle}", "--shard_size=3"]) == 0
    names = sorted(blob.name for blob in bucket.list_blobs(prefix="out/"))
    run = names[-1].split("/")[2]
    assert f"out/runs/{run}/_SUCCESS" in names
    parts = [name for name in names if name.endswith(".parquet") and "/runs/" not in name]
    rows = [row for part in parts for row in _rows(bucket.blob(part).download_as_bytes(), part)]
    assert sorted(row["uri"] for row in rows) == sorted(
        f"{root}/photos/{p.name}" for p in folder.iterdir() if p.is_file()
    )
    captioned = [row for row in rows if "caption" in row]
    assert len(captioned) == 5
    for row in captioned:
        assert row["object_version"] == str(bucket.get_blob(row["uri"].removeprefix(root + "/")).generation)


def _rows(parquet: bytes, name: str) -> list[dict]:
    import pyarrow.parquet as pq

    return pq.read_table(io.BytesIO(parquet)).to_pylist()


def test_run_local_from_another_folder(photographs, tmp_path: Path) -> None:
    """Without arguments: a table of captions and the place of the Parquet."""
    script = Path(__file__).parents[3] / "run_local.sh"
    if not (script.parent / ".venv" / ".installed").exists():
        pytest.skip("needs the environment that run_local.sh makes")
    done = subprocess.run(
        [str(script)], capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"EXTRAS": "demo"}, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Installing" not in done.stderr
    lines = done.stdout.splitlines()
    assert lines[1].split() == ["image", "caption", "score"]
    assert [line.split()[0] for line in lines[2:-2]] == list(photographs)
    parquet = Path(lines[-1].removeprefix("Parquet files: "))
    assert parquet.is_relative_to(tmp_path)
    assert pd.read_parquet(parquet)["caption"].str.len().gt(5).all()


def test_evaluation_reads_the_captions_of_the_job(photographs, finished: Path, expected: dict[str, str]) -> None:
    from model.training.data import Example
    from model.training.evaluate import read_captions

    examples = [Example(name, photographs[name].read_bytes, ("a photograph of a thing",)) for name in GOOD]
    said = read_captions(f"{finished}/captions", examples)
    assert {name: caption.text for name, caption in said.items()} == expected
    scores = {Path(row["uri"]).name: row["score"] for row in table(finished, "captions")}
    assert {name: caption.score for name, caption in said.items()} == scores
