"""The evaluation command, with the real scorers and the real PTB tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.evaluate import main
from model.metrics import MetricsError, caption_metrics, quick_cider

REFERENCES = {
    "dog.jpg": ["A brown dog runs through the grass.", "A dog is running on a lawn."],
    "cat.jpg": ["A cat sleeps on a red sofa.", "The cat is asleep."],
    "man.jpg": ["A man climbs a steep rock.", "Somebody is climbing."],
}


@pytest.fixture
def data(tmp_path: Path) -> str:
    rows = [{"image_id": name, "image": b"unused", "captions": said} for name, said in REFERENCES.items()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    return str(tmp_path / "data.parquet")


def captions_file(folder: Path, captions: dict[str, str]) -> str:
    rows = [{"uri": f"gs://bucket/photos/{name}", "caption": text} for name, text in captions.items()]
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "part-00000.parquet")
    return str(folder)


def test_peoples_own_words_score_full_marks(data: str, tmp_path: Path, capsys) -> None:
    said = captions_file(tmp_path / "out", {name: texts[0].lower().rstrip(".") for name, texts in REFERENCES.items()})
    assert main([f"--data={data}", f"--captions={said}"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["images"] == 3
    assert [scores[f"BLEU-{n}"] for n in (1, 2, 3, 4)] == [100.0] * 4
    assert scores["ROUGE-L"] == 100.0
    assert scores["METEOR"] > 90
    assert scores["CIDEr"] > 300


def test_bleu_1_by_hand() -> None:
    # "a dog sleeps": "a" and "dog" are among the reference's words, and it is as long: 2 of 3.
    scores = caption_metrics({"x": ["a dog runs"]}, {"x": ["a dog sleeps"]})
    assert scores["BLEU-1"] == pytest.approx(200 / 3, abs=0.01)


def test_quick_cider_prefers_the_right_image() -> None:
    right = {name: [texts[0]] for name, texts in REFERENCES.items()}
    turned = dict(zip(REFERENCES, [*list(right.values())[1:], right["dog.jpg"]], strict=True))
    assert quick_cider(REFERENCES, right) > 100 > quick_cider(REFERENCES, turned)


def test_a_missing_caption_is_named(data: str, tmp_path: Path, capsys) -> None:
    said = captions_file(tmp_path / "out", {"dog.jpg": "a dog", "man.jpg": "a man"})
    assert main([f"--data={data}", f"--captions={said}"]) == 2
    assert "no caption for 1 of 3 images, such as cat.jpg" in capsys.readouterr().err


def test_without_java_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MetricsError, match="need Java: apt-get install"):
        caption_metrics(REFERENCES, REFERENCES)


def test_a_model_is_scored_on_photographs(photographs, tmp_path: Path, capsys) -> None:
    rows = [
        {"image": photographs["chelsea.png"].read_bytes(), "captions": ["a cat looks up"]},
        {"image": photographs["rocket.jpg"].read_bytes(), "captions": ["a rocket at night"]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "photographs.parquet")
    assert main([f"--data={tmp_path}/photographs.parquet", "--decoding=greedy"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["images"] == 2
    assert scores["BLEU-1"] > 0
