"""The review page of a run: what it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beam_job.cli.command import main
from beam_job.output.page import Card, ReviewPage
from beam_job.output.thumbnails import ThumbnailSampler, sample_key
from tests.images import encode
from tests.reviewed import BROKEN, HOSTILE, IMAGES, Captioner, run, write_images


@pytest.fixture(autouse=True)
def captioner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beam_job.captioning.caption_shards.load_captioner", lambda *_: Captioner())


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_images(tmp_path / "photos")
    return tmp_path / "photos"


def held(page: Path) -> dict[str, Any]:
    """What the page's script gets."""
    text = page.read_text(encoding="utf-8")
    return json.loads(text.split('id="data">')[1].split("</script>")[0])


def test_it_holds_all_captions_and_pictures_of_some(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ThumbnailSampler, "for_run", lambda *_: ThumbnailSampler(0.2))
    data = held(run(photos, tmp_path / "out", shard_size=10))
    assert (data["summary"]["captions"], data["summary"]["failures"]) == (IMAGES + 1, BROKEN)
    assert sum(data["summary"]["scores"].values()) == sum(data["summary"]["words"].values()) == IMAGES + 1
    assert data["summary"]["words"]["2"] == IMAGES
    assert [failure["stage"] for failure in data["failures"]] == ["decode"] * BROKEN
    assert len(data["cards"]) == data["captions"] == IMAGES + 1
    assert HOSTILE in {card["caption"] for card in data["cards"]}
    pictured = [card for card in data["cards"] if "picture" in card]
    assert 0 < len(pictured) < IMAGES
    assert HOSTILE in {card["caption"] for card in pictured}  # the brightest has the lowest score
    assert all(len(card["picture"]) < 20_000 for card in pictured)


def test_the_sample_is_the_same_whatever_the_shards(photos: Path, tmp_path: Path) -> None:
    first, second = (
        held(run(photos, tmp_path / f"out{size}", report_samples=8, shard_size=size, batch_size=7)) for size in (5, 100)
    )
    expected = sorted(map(str, photos.glob("*.png")), key=sample_key)
    for data in (first, second):
        assert [card["uri"] for card in data["cards"]] == expected
        assert all("picture" in card for card in data["cards"][:8])


def test_many_captions_are_those_with_pictures(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ThumbnailSampler, "for_run", lambda *_: ThumbnailSampler(0.2))
    monkeypatch.setattr("beam_job.output.run_page.MOST_CAPTIONS", IMAGES)
    data = held(run(photos, tmp_path / "out", shard_size=100))
    assert data["captions"] == IMAGES + 1
    assert len(data["cards"]) < IMAGES
    assert all("picture" in card for card in data["cards"])


def test_many_pictures_lie_beside_the_page(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beam_job.output.page._EMBEDDED_BYTES", 1_000)
    monkeypatch.setattr("beam_job.output.page._PICTURES_A_SHEET", 20)
    page = run(photos, tmp_path / "out")
    cards = held(page)["cards"]
    assert [card["sheet"] for card in cards] == [0] * 20 + [1] * (IMAGES + 1 - 20)
    sheets = [path.read_text() for path in sorted((page.parent / "pictures").iterdir())]
    assert all(f"--p{card['id']}:" in sheets[card["sheet"]] for card in cards)


def test_pictures_are_small_whatever_the_image(tmp_path: Path) -> None:
    folder = tmp_path / "noise"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (400, 600, 3), np.uint8)
    (folder / "noise.png").write_bytes(encode(Image.fromarray(pixels), "PNG"))
    page = run(folder, tmp_path / "out")
    [thumbnails] = page.parent.glob("thumbnails/*.parquet")
    [picture] = pq.read_table(thumbnails)["jpeg"].to_pylist()
    assert len(picture) < 20_000


def test_no_report_leaves_nothing(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"--input={photos}", f"--output={tmp_path}/out", "--no_report"]) == 0
    assert "page:" not in capsys.readouterr().err
    [folder] = [path.parent for path in (tmp_path / "out" / "runs").glob("*/run.json")]
    assert not (folder / "index.html").exists()
    assert not (folder / "thumbnails").exists()


def test_damaged_pictures_cost_the_page_its_pictures(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: object, **__: object) -> bytes:
        return b"PAR1 no more"

    with monkeypatch.context() as patch:
        patch.setattr("beam_job.output.thumbnails.parquet_bytes", damaged)
        data = held(run(photos, tmp_path / "out"))
    assert len(data["cards"]) == IMAGES + 1
    assert not any("picture" in card or "sheet" in card for card in data["cards"])


def test_a_page_that_cannot_be_written_is_not_named(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("beam_job.planning.run.Run.page", property(lambda run: f"{run.folder}/run.json/index.html"))
    assert main([f"--input={photos}", f"--output={tmp_path}/out"]) == 0
    error = capsys.readouterr().err
    assert "the review page could not be written: " in error
    assert "index.html" not in error.split("the review page could not be written: ")[1].split("\n", 1)[1]
    [folder] = [path.parent for path in (tmp_path / "out" / "runs").glob("*/run.json")]
    assert (folder / "_SUCCESS").exists()
    assert json.loads((folder / "summary.json").read_text())["page"] is None


def test_the_summary_names_the_page_and_its_format(photos: Path, tmp_path: Path) -> None:
    page = run(photos, tmp_path / "out")
    summary = json.loads((page.parent / "summary.json").read_text())
    assert (summary["page"], summary["format"]) == (str(page), 1)


@pytest.mark.parametrize("score", [float("nan"), float("-inf"), None])
def test_odd_scores_do_not_break_the_page(score: float | None) -> None:
    """A version before scores were checked may have written them."""
    card = Card("00", "a.jpg", "a dog", score, "1")
    text, _ = ReviewPage("a run", [card], 1).files({}, "pictures")
    assert '"score": null' in text
