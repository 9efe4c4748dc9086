"""`caption-images review`: one page over all runs of an output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from beam_job.cli.command import main
from tests.images import encode
from tests.reviewed import BROKEN, IMAGES, Captioner, run, write_images


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two nights: another photograph came in the second, and one changed."""
    monkeypatch.setattr("beam_job.captioning.caption_shards.load_captioner", lambda *_: Captioner())
    write_images(tmp_path / "photos")
    run(tmp_path / "photos", tmp_path / "out")
    for name, brightness in (("photo 00.png", 150), ("photo 99.png", 151)):
        content = encode(Image.new("RGB", (61, 30), (brightness,) * 3), "PNG")
        (tmp_path / "photos" / name).write_bytes(content)
    run(tmp_path / "photos", tmp_path / "out")
    return tmp_path / "out"


def data_of(page: Path) -> dict[str, Any]:
    return json.loads(page.read_text(encoding="utf-8").split('id="data">')[1].split("</script>")[0])


def test_it_shows_the_newest_captions_of_all_nights(output: Path, tmp_path: Path, capsys) -> None:
    page = tmp_path / "review.html"
    assert main(["review", f"--output={output}", f"--to={page}"]) == 0
    assert f"{IMAGES + 2} captions, {BROKEN} failures" in capsys.readouterr().out
    data = data_of(page)
    cards = {Path(card["uri"]).name: card for card in data["cards"]}
    assert len(data["cards"]) == len(cards) == IMAGES + 2
    assert cards["photo 00.png"]["caption"] == "brightness 150"
    assert cards["photo 99.png"]["caption"] == "brightness 151"
    assert all(card["picture"] for card in cards.values())
    assert data["failed"] == len(data["failures"]) == BROKEN
    before = page.read_bytes()
    assert main(["review", f"--output={output}", f"--to={page}"]) == 0
    assert page.read_bytes() == before


def test_corrections_are_shown(output: Path, tmp_path: Path) -> None:
    main(["review", f"--output={output}", f"--to={tmp_path}/review.html"])
    first, second, *_ = data_of(tmp_path / "review.html")["cards"]
    lines = [
        {"uri": first["uri"], "object_version": first["version"], "caption": "a wall"},
        {"uri": second["uri"], "object_version": second["version"], "bad": True},
    ]
    corrections = tmp_path / "corrections.jsonl"
    corrections.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["correct", f"--output={output}", str(corrections)]) == 0
    assert main(["review", f"--output={output}", f"--to={tmp_path}/review.html"]) == 0
    corrected = [card["correction"] for card in data_of(tmp_path / "review.html")["cards"][:3]]
    assert corrected == [{"caption": "a wall"}, {"bad": True}, None]


@pytest.mark.parametrize("existing", ["review.html", "review_pictures/00000.css"])
def test_other_files_are_not_replaced(
    existing: str, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr("beam_job.output.page._EMBEDDED_BYTES", 0)
    (tmp_path / existing).parent.mkdir(exist_ok=True)
    (tmp_path / existing).write_text("mine")
    assert main(["review", f"--output={output}", f"--to={tmp_path}/review.html"]) == 2
    assert f"{existing} exists and is not a review page; choose another --to" in capsys.readouterr().err
    assert [path.name for path in tmp_path.glob("review*")] == [existing.split("/")[0]]
    assert (tmp_path / existing).read_text() == "mine"


def test_not_into_the_output(output: Path, capsys) -> None:
    assert main(["review", f"--output={output}", f"--to={output}/review.html"]) == 2
    assert "lies in --output" in capsys.readouterr().err


def test_a_folder_without_captions_is_refused(tmp_path: Path, capsys) -> None:
    (tmp_path / "mine").mkdir()
    assert main(["review", f"--output={tmp_path}/mine", f"--to={tmp_path}/review.html"]) == 2
    assert f"there is no caption in {tmp_path}/mine; is it the --output of a run?" in capsys.readouterr().err
    assert not (tmp_path / "review.html").exists()


def test_a_link_to_a_page_stays_a_link(output: Path, tmp_path: Path) -> None:
    page, link = tmp_path / "review.html", tmp_path / "latest.html"
    main(["review", f"--output={output}", f"--to={page}"])
    link.symlink_to(page)
    page.write_text(page.read_text(encoding="utf-8") + "<!-- old -->", encoding="utf-8")
    assert main(["review", f"--output={output}", f"--to={link}"]) == 0
    assert link.is_symlink()
    assert "<!-- old -->" not in page.read_text(encoding="utf-8")
