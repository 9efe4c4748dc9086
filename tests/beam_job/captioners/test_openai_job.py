"""The whole command with an endpoint: rows, summary, a budget, and the ends of runs that cannot go on."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from PIL import Image

from beam_job.cli.command import main
from beam_job.cli.options import parse
from beam_job.inputs.endpoint import Endpoint
from beam_job.transforms import CaptionImages
from tests.openai_server import COLOURS, MODEL, OpenAiServer
from tests.outputs import table

KEY = "sk-proj-0123456789abcdefghij"
REFUSED = {"status": 401, "error": {"message": f"Incorrect API key provided: {KEY}."}}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for place, (name, colour) in enumerate([*COLOURS.items()] * 2):
        Image.new("RGB", (100 + place, 50), colour).save(folder / f"{place}-{name}.jpg")
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


def run(server: OpenAiServer, photos: Path, *options: str, model: str = MODEL) -> int:
    given = [f"--input={photos}", f"--output={photos.parent}/out", f"--endpoint={server.url}", f"--model={model}"]
    return main([*given, "--captioner=openai", "--concurrency=2", *options])


def summary(output: Path) -> dict[str, Any]:
    return json.loads(max(output.glob("runs/*/summary.json")).read_text())


def test_rows_summary_and_the_night_after(
    server: OpenAiServer,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    refusal = {"text": None, "refusal": "I cannot describe this."}
    server.set(key=KEY, by_colour={"green": refusal})
    output = tmp_path / "out"
    assert run(server, photos, "--min_score=-1") == 0
    rows = table(output, "captions")
    assert [(row["caption"], row["score"]) for row in rows] == [
        ("a red picture of 100x50", None),
        ("a blue picture of 102x50", None),
        ("a red picture of 103x50", None),
        ("a blue picture of 105x50", None),
    ]
    failures = {Path(row["uri"]).name: row for row in table(output, "failures")}
    assert set(failures) == {"1-green.jpg", "4-green.jpg", "broken.jpg"}
    assert failures["1-green.jpg"]["error_type"] == "RefusedAnswer"
    assert failures["1-green.jpg"]["error_message"] == "the model refused: I cannot describe this."
    counts = summary(output)["counts"]
    assert counts.pop("request_seconds") >= 0
    assert counts == {"requests": 6, "retries": 0, "tokens_in": 600, "tokens_out": 60}

    assert run(server, photos, "--min_score=-1") == 0
    assert len(server.asked) == 8  # six pictures, and before each run the captioner's own
    log = capfd.readouterr().err
    assert "nothing to do: 4 images already done, 3 failed for good" in log
    stored = b"".join(path.read_bytes() for path in output.rglob("*") if path.is_file())
    assert KEY.encode() not in stored
    assert KEY not in log


def test_captions_without_scores_are_exported(server: OpenAiServer, photos: Path, tmp_path: Path) -> None:
    assert run(server, photos) == 0
    output = f"--output={tmp_path}/out"
    assert main(["status", output]) == 0
    assert main(["snapshot", output, f"--to={tmp_path}/newest"]) == 0
    for name in ("csv", "coco", "hf", "sidecar", "webdataset", "bigquery"):
        assert main(["export", output, f"--format={name}", f"--to={tmp_path}/{name}"]) == 0, name
    [path] = [path for path in (tmp_path / "csv", *(tmp_path / "csv").rglob("*")) if path.is_file()]
    with path.open(encoding="utf-8", newline="") as file:
        assert [row["score"] for row in csv.DictReader(file)] == [""] * 6


def test_a_budget_ends_the_run_and_the_next_one_goes_on(
    server: OpenAiServer, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(server, photos, "--max_tokens_total=330", "--concurrency=1") == 0
    first = summary(tmp_path / "out")
    assert (first["captions"], first["left"]) == (3, 3)
    assert (
        "--max_tokens_total is spent (330 tokens in this process); all other images are left" in capfd.readouterr().err
    )
    assert run(server, photos) == 0
    assert len({row["uri"] for row in table(tmp_path / "out", "captions")}) == 6
    assert summary(tmp_path / "out")["inputs"] == 3


def test_wrong_usage_is_one_line_and_writes_nothing(
    server: OpenAiServer, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(server, photos, model="typo") == 2
    [line] = capfd.readouterr().err.splitlines()
    assert f"--endpoint={server.url} answered 404 Not Found: The model `typo` does not exist." in line
    assert not (tmp_path / "out").exists()


def test_a_key_that_is_refused_on_the_way_ends_the_run_without_failures(
    server: OpenAiServer,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.set(steps=[{}] * 3 + [REFUSED] * 99)
    assert run(server, photos, "--shard_size=2") == 1
    lines = capfd.readouterr().err.splitlines()
    assert "answered 401 Unauthorized: Incorrect API key provided: ....; check the key in OPENAI_API_KEY" in lines[-1]
    assert "repeat the command to resume" in lines[-1]
    assert KEY not in "".join(lines)
    assert not list((tmp_path / "out").glob("failures/*/*.parquet"))
    server.set(key=KEY)
    assert run(server, photos, "--shard_size=2") == 0
    assert len(table(tmp_path / "out", "captions")) == 6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--captioner=openai", "--model=m"], "--endpoint=URL need each other", id="no endpoint"),
        pytest.param(["--endpoint=http://x/v1"], "--endpoint=URL need each other", id="no captioner"),
        pytest.param(["--captioner=openai", "--endpoint=http://x"], "needs --model=NAME", id="no model"),
        pytest.param(["--endpoint=localhost:8000"], "http://localhost:8000/v1, not 'localhost:8000'", id="no URL"),
        pytest.param(["--endpoint=http://me:secret@x/v1"], "=http://x/v1 must not contain a user", id="password"),
        pytest.param(
            ["--endpoint=http://x:99999/v1"], "--endpoint=http://x:99999/v1 is not a URL: Port out", id="port"
        ),
        pytest.param(["--endpoint=http://x", "--concurrency=0"], "--concurrency must be a whole number from 1", id="0"),
        pytest.param(
            ["--endpoint=http://x", "--jpeg_quality=101"], "--jpeg_quality must be at most 100, not 101", id="quality"
        ),
        pytest.param(["--endpoint=http://x", "--request_timeout=nan"], "--request_timeout must be above 0", id="nan"),
        pytest.param(["--endpoint=http://x", f"--api_key_env={KEY}"], "--api_key_env must be the name", id="the key"),
        pytest.param(["--max_tokens_total=5"], "--max_tokens_total applies only to --captioner=openai", id="alone"),
    ],
)
def test_options_that_do_not_fit(arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--input=photos", "--output=out", *arguments]) == 2
    log = capfd.readouterr().err
    assert said in log
    assert KEY not in log
    assert "secret" not in log


def test_every_option_sets_its_field() -> None:
    given = {
        "concurrency": 3,
        "request_timeout": 5.5,
        "max_tokens_total": 7,
        "jpeg_quality": 11,
        "logprobs": True,
        "api_key_env": "MY_KEY",
    }
    options = [f"--{name}" if value is True else f"--{name}={value}" for name, value in given.items()]
    needed = ["--input=photos", "--output=out", "--captioner=openai", "--model=m", "--endpoint=http://x"]
    config, _ = parse([*needed, *options])
    assert config.endpoint == Endpoint("http://x", **given)
    assert {field.name for field in dataclasses.fields(Endpoint)} == {"url", *given}
    assert config.endpoint.completions_url == "http://x/v1/chat/completions"


def test_in_a_pipeline_of_other_people(server: OpenAiServer, photos: Path, capfd: pytest.CaptureFixture[str]) -> None:
    endpoint = Endpoint(server.url, logprobs=True)
    transform = CaptionImages(captioner="openai", model=MODEL, endpoint=endpoint, allow_root=[str(photos)])
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        captions = (pipeline | beam.Create([f"{photos}/0-red.jpg"]) | transform).captions
        captions | beam.Map(lambda row: print(f"caption: {row['caption']} {row['score']}"))
    assert "caption: a red picture of 100x50 -1.0" in capfd.readouterr().out
