"""Captioners of pictures through the whole job: shapes, columns, prompts, failures, a budget, counts."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import ExifTags, Image

from beam_job.captioning.budgets import FailureBudget
from beam_job.captioning.engine import Engine
from beam_job.captioning.progress_file import ProgressFile
from beam_job.cli.command import main
from beam_job.config import JobConfig
from beam_job.planning.plan import Shard
from beam_job.planning.run import Run
from beam_job.records import ImageInput
from model import Caption, Picture
from tests.outputs import table

TELLER = "--captioner=tests.picture_captioner:make"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("L", (200, 100), 10).save(folder / "a.jpg")
    Image.new("L", (20, 30), 20).save(folder / "b.png")
    rotated = Image.Exif()
    rotated[ExifTags.Base.Orientation] = 6
    Image.new("L", (400, 100), 30).save(folder / "c.jpg", exif=rotated)
    Image.new("L", (64, 1), 40).save(folder / "d.png")
    return folder


def run(photos: Path, output: Path, *options: str) -> int:
    return main([f"--input={photos}", f"--output={output}", TELLER, *options])


def summary(output: Path) -> dict[str, Any]:
    return json.loads(max(output.glob("runs/*/summary.json")).read_text())


def captions(output: Path) -> list[str]:
    return [row["caption"] for row in table(output, "captions")]


def test_pictures_keep_their_shape_and_need_no_score(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(photos, tmp_path / "out", "--min_score=-1") == 0
    rows = table(tmp_path / "out", "captions")
    assert [row["caption"] for row in rows] == [
        "64x32 10 None {}",
        "20x30 20 None {}",  # smaller ones are left as they are
        "16x64 30 None {}",
        "64x1 40 None {}",
    ]
    assert [(row["score"], row["low_confidence"]) for row in rows] == [(None, None)] * 4
    assert [(row["width"], row["height"]) for row in rows] == [(200, 100), (20, 30), (100, 400), (64, 1)]
    assert "4 have no score, so low_confidence is null" in capfd.readouterr().err
    found = summary(tmp_path / "out")
    assert found["counts"] == {"requests": 4}
    assert [(entry["engine"], entry["batch_size"]) for entry in found["ran_with"]] == [("teller", 2)]
    page = Path(found["page"]).read_text()
    assert page.count('"score": null') == 4


def test_prompts_have_columns_of_their_own_and_are_filled_in(photos: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.jsonl"
    lines = [{"uri": str(photos / name), "title": title} for name, title in (("a.jpg", "Cat"), ("b.png", None))]
    listed.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "long.txt").write_text("Describe {title} {{at length}}.\n")
    arguments = [f"--input={listed}", f"--output={tmp_path}/out", TELLER, "--carry_columns=title"]
    prompts = ["--prompt=short=Name {title}", f"--prompt=long=@{tmp_path}/long.txt"]
    arguments += [f"--allow_root={photos}"]
    assert main([*arguments, *prompts]) == 0
    cat, other = table(tmp_path / "out", "captions")
    assert cat["caption"] == cat["caption_short"] == "64x32 10 Name Cat {'title': 'Cat'}"
    assert cat["caption_long"] == "64x32 10 Describe Cat {at length}. {'title': 'Cat'}"
    assert (cat["score_short"], cat["title"]) == (None, "Cat")
    assert other["caption"] == "20x30 20 Name  {'title': None}"
    [manifest] = (tmp_path / "out").glob("runs/*/run.json")
    assert json.loads(manifest.read_text())["prompts"] == {
        "short": "Name {title}",
        "long": "Describe {title} {{at length}}.",
    }
    assert main([*arguments, *prompts]) == 0
    assert len(list((tmp_path / "out").glob("runs/*/summary.json"))) == 1  # all done
    assert main([*arguments, "--prompt=Name {title}"]) == 0  # another prompt is another caption
    names = {tuple(pq.read_schema(path).names) for path in (tmp_path / "out").glob("captions/*/*.parquet")}
    assert sorted("caption_short" in found for found in names) == [False, True]


def test_a_failure_of_one_picture_is_a_row_with_its_reason(photos: Path, tmp_path: Path) -> None:
    assert run(photos, tmp_path / "out", "--model=refuse=b.png") == 0
    [failure] = table(tmp_path / "out", "failures")
    assert (failure["stage"], failure["error_type"], failure["error_message"], failure["retry_when"]) == (
        "caption",
        "RefusedError",
        "not this one",
        "options",
    )
    assert len(captions(tmp_path / "out")) == 3


def test_a_spent_budget_ends_the_run_in_good_order_and_the_next_goes_on(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(photos, tmp_path / "out", "--model=budget=2", "--shard_size=1", "--batch_size=1") == 0
    assert len(captions(tmp_path / "out")) == 2
    assert {row["error_type"] for row in table(tmp_path / "out", "failures")} == {"EndRun"}
    found = summary(tmp_path / "out")
    assert (found["captions"], found["failures"], found["left"]) == (2, 2, 2)
    said = capfd.readouterr().err
    assert "2 x caption: EndRun (left for the next run)" in said
    assert "the budget of 2 is spent; all other images are left for the next run" in said
    assert run(photos, tmp_path / "out", "--model=budget=2") == 0
    assert sorted(captions(tmp_path / "out"), key=lambda said: said.split()[1]) == [
        "64x32 10 None {}",
        "20x30 20 None {}",
        "16x64 30 None {}",
        "64x1 40 None {}",
    ]


def test_an_error_that_hits_all_pictures_ends_the_run_in_one_line(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(photos, tmp_path / "out", "--model=broken=yes") == 1
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert "failed: the key is refused; give another; fix that, then repeat the command to resume" in last
    assert list((tmp_path / "out").glob("failures/*/*")) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--prompt=a", "--prompt=b"], "more than one has no name", id="no names"),
        pytest.param(["--prompt=x=a", "--prompt=x=b"], "more than one is named 'x'", id="same name"),
        pytest.param(["--prompt=x=a", "--prompt=b"], "only the first of several prompts", id="one has a name"),
        pytest.param(["--prompt=of {title}"], "'title', which is not among --carry_columns", id="column"),
        pytest.param(["--prompt=of {}"], "has a brace without a column", id="no column"),
        pytest.param(["--prompt= "], "--prompt must not be empty", id="empty"),
        pytest.param(["--prompt=@nowhere.txt"], "'nowhere.txt' cannot be read: No such file", id="no file"),
        pytest.param(["--prompt=x=a", "--carry_columns=caption_x"], "the column of a prompt's caption", id="collision"),
    ],
)
def test_prompts_that_cannot_be_used_are_refused_in_one_line(
    options: list[str], message: str, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(photos, tmp_path / "out", *options) == 2
    error = capfd.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param([], "--prompt needs a --captioner that takes prompts", id="bundle"),
        pytest.param(
            ["--captioner=tests.saved_model_captioner:make", "--model=x"],
            "the captioner takes no --prompt: it has no method caption_pictures",
            id="arrays",
        ),
    ],
)
def test_who_takes_no_prompts_says_so(
    options: list[str], message: str, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([f"--input={photos}", f"--output={tmp_path}/out", "--prompt=What?", *options]) == 2
    assert message in capfd.readouterr().err


def test_an_estimate_measures_the_captioner_and_writes_nothing(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for number in range(20):
        Image.new("L", (30, 20), number).save(photos / f"{number}.png")
    assert run(photos, tmp_path / "out", "--estimate", "--model=refuse=c.jpg") == 0
    said = capfd.readouterr().err
    assert "measured here: 16 images in " in said
    assert "batches of 2, model teller-refuse=c.jpg" in said
    assert "estimate: 24 images in less than a minute with one process like this" in said
    assert "per image: 1.0 requests" in said
    assert not (tmp_path / "out").exists()


def test_an_estimate_tells_why_images_fail(photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(photos, tmp_path / "out", "--estimate", "--model=refuse=.") == 0
    assert "4 of them failed, the first with caption: RefusedError: not this one" in capfd.readouterr().err


def test_an_estimate_of_a_captioner_that_cannot_go_on(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(photos, tmp_path / "out", "--estimate", "--model=broken=yes") == 2
    assert capfd.readouterr().err == "caption-images: the key is refused; give another\n"


class Recorder:
    """Notes how many pictures each call has, and how many calls run at the same time."""

    version = "recorder-1"
    max_side = 64
    batch_size = 100
    batches_at_once = 3

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.running = self.most = 0
        self.lock = threading.Lock()
        self.together = threading.Barrier(3)

    def caption_pictures(self, pictures: Sequence[Picture]) -> list[list[Caption]]:
        with self.lock:
            self.calls.append(len(pictures))
            self.running += 1
            self.most = max(self.most, self.running)
        with contextlib.suppress(threading.BrokenBarrierError):
            self.together.wait(timeout=20)
        with self.lock:
            self.running -= 1
        return [[Caption("a picture", -1.0)] for _ in pictures]


def test_batches_overlap_and_are_bounded_by_bytes(tmp_path: Path) -> None:
    """Four batches of pictures of 64 x 64 pixels, three of them being captioned, share a budget of 20 pictures."""
    images = []
    for number in range(30):
        Image.new("L", (64, 64), number).save(tmp_path / f"{number}.png")
        images.append(ImageInput(str(tmp_path / f"{number}.png")))
    captioner = Recorder()
    config = JobConfig((str(tmp_path),), str(tmp_path / "out"), in_flight_bytes=20 * 3 * 64 * 64)
    failures = FailureBudget(1.0, 30)
    run = Run(config.output, "r1")
    engine = Engine(config, run, captioner, 64, captioner.batch_size, ProgressFile(None), failures)
    assert engine.submit(0, Shard(images, pa.table({}))).result(timeout=60).report.captions == 30
    engine.close()
    assert captioner.calls == [5] * 6
    assert captioner.most == 3
