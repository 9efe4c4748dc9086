"""The evaluation command, with the real scorers and the real PTB tokenizer."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.training.evaluate import main
from model.training.metrics import Captions, MetricsError, Scores, by_fifths, caption_metrics, quick_cider
from tests.conftest import WORDS

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


class MeteorWithoutJava:
    """Stands for METEOR's process and its score: 1 for people's own words, otherwise 0."""

    @property
    def meteor_p(self) -> contextlib.AbstractContextManager[MeteorWithoutJava]:
        return contextlib.nullcontext(self)

    def kill(self) -> None:
        pass

    def compute_score(self, truth: dict, said: dict) -> tuple[float, list[float]]:
        of_each = [float(said[image][0] in texts) for image, texts in truth.items()]
        return sum(of_each) / len(of_each), of_each


@pytest.fixture
def without_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of words in lower case without punctuation; two Java processes for each score take seconds."""
    monkeypatch.setattr("pycocoevalcap.meteor.meteor.Meteor", MeteorWithoutJava)
    monkeypatch.setattr(
        "pycocoevalcap.tokenizer.ptbtokenizer.PTBTokenizer.tokenize",
        lambda _, given: {image: [row["caption"].lower().rstrip(".") for row in rows] for image, rows in given.items()},
    )


def captions_file(folder: Path, captions: dict[str, str], scores: dict[str, float] | None = None) -> str:
    rows = [{"uri": f"gs://bucket/photos/{name}", "caption": text} for name, text in captions.items()]
    if scores:
        rows = [row | {"score": scores[name]} for row, name in zip(rows, captions, strict=True)]
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
    assert "CIDEr by fifths of score" not in scores  # of three images
    assert scores["captions"] == scores["human captions"]
    assert scores["captions"]["% distinct"] == 100


def test_cider_by_fifths_of_the_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def right_or_wrong(references: Captions, said: Captions) -> Scores:
        """CIDEr without Java: 100 for people's own words."""
        return Scores({}, {name: 100.0 * (said[name][0] == texts[0]) for name, texts in references.items()}, {})

    monkeypatch.setattr("model.training.evaluate.caption_metrics", right_or_wrong)
    names = [f"{number}.jpg" for number in range(5)]
    rows = [{"image_id": name, "image": b"", "captions": [f"a photograph, {name}"]} for name in names]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "five.parquet")
    said = {name: f"a photograph, {name}" for name in names} | {"3.jpg": "a mistake"}
    scores = dict(zip(names, [-0.5, -0.1, -0.4, -2.0, -0.2], strict=True))
    arguments = [f"--data={tmp_path}/five.parquet", f"--captions={captions_file(tmp_path / 'out', said, scores)}"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["CIDEr by fifths of score"] == [0, 100, 100, 100, 100]


def test_several_sets_are_scored_at_once(data: str, tmp_path: Path, without_java: None, capsys) -> None:
    rows = [{"image_id": "boat.jpg", "image": b"", "captions": ["a boat on a lake", "a small boat"]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "other.parquet")
    said = captions_file(
        tmp_path / "out", {**{name: texts[0] for name, texts in REFERENCES.items()}, "boat.jpg": "a tree"}
    )
    assert main([f"--data={data}", f"--data={tmp_path}/other.parquet", f"--captions={said}"]) == 0
    reports = json.loads(capsys.readouterr().out)
    assert list(reports) == ["data", "other"]
    assert (reports["data"]["images"], reports["other"]["images"]) == (3, 1)
    assert reports["data"]["BLEU-1"] == 100 > 50 > reports["other"]["BLEU-1"]


def test_sets_of_one_name_are_refused(data: str, capsys) -> None:
    assert main([f"--data={data}", f"--data={data}", "--captions=unused"]) == 2
    error = capsys.readouterr().err
    assert "two sets are named 'data'; rename one" in error
    assert error.count("\n") == 1


def test_intervals_hold_the_score_and_shrink_with_more_images(without_java: None) -> None:
    seen = ["a dog runs over green grass", "two men sit on a red bench"]
    references = {f"{n}": [seen[n // 2 % 2]] for n in range(400)}
    said = {name: texts if int(name) % 2 else ["a cat sleeps"] for name, texts in references.items()}
    metrics, _, wide = caption_metrics({n: references[n] for n in list(references)[:40]}, dict(list(said.items())[:40]))
    _, _, narrow = caption_metrics(references, said)
    for name, score in metrics.items():
        low, high = wide[name]
        assert low < score < high, name
        assert narrow[name][1] - narrow[name][0] < (high - low) / 2, name


def test_there_is_no_doubt_about_captions_that_are_all_right(without_java: None) -> None:
    _, _, intervals = caption_metrics(REFERENCES, {name: [texts[0]] for name, texts in REFERENCES.items()})
    assert intervals["BLEU-4"] == pytest.approx((100, 100))


def test_fifths_by_hand() -> None:
    scores, values = [-3, -1, -5, -2, -4, -9, -8, -7, -6, -10], [30, 10, 50, 20, 40, 90, 80, 70, 60, 100]
    assert by_fifths(scores, values) == [95, 75, 55, 35, 15]


def test_bleu_1_by_hand(without_java: None) -> None:
    # "a dog sleeps": "a" and "dog" are among the reference's words; the other caption is right: 5 of 6 words.
    references = {"x": ["a dog runs"], "y": ["the cat sits"]}
    metrics, cider, _ = caption_metrics(references, {"x": ["a dog sleeps"], "y": ["the cat sits"]})
    assert metrics["BLEU-1"] == pytest.approx(500 / 6, abs=0.01)
    assert cider["y"] > cider["x"]
    assert metrics["CIDEr"] == pytest.approx((cider["x"] + cider["y"]) / 2)


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


def test_a_model_is_scored_on_photographs(photographs, tiny_bundle, without_java: None, tmp_path: Path, capsys) -> None:
    rows = [
        {"image": photographs["chelsea.png"].read_bytes(), "captions": [" ".join(WORDS)]},
        {"image": photographs["rocket.jpg"].read_bytes(), "captions": [" ".join(WORDS)]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "photographs.parquet")
    assert main([f"--data={tmp_path}/photographs.parquet", f"--model={tiny_bundle}", "--decoding=greedy"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["images"] == 2
    assert scores["BLEU-1"] > 0
