"""Sentences without photographs: reading them, learning them, and the words that they add to a bundle."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from model.training.data import DataError
from model.training.extend import main as extend
from model.training.sentences import read_sentences
from model.training.shrink import main as shrink
from model.vocabulary import Vocabulary
from tests.model.small_training import log_of, train

SENTENCES = ["A zebra drinks at a pond.", "Two zebras stand on dry grass.", "A zebra runs."]


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    path = tmp_path / "sentences.txt.gz"
    path.write_bytes(gzip.compress("\n\n".join(SENTENCES).encode()))
    return path


def test_lines_are_sentences_compressed_or_not(sentences: Path, tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("  A zebra.  \n\nA café.\n", encoding="utf-8")
    assert read_sentences(sentences) == SENTENCES
    assert read_sentences(tmp_path / "plain.txt") == ["A zebra.", "A café."]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("missing.txt", None, id="missing"),
        pytest.param("empty.txt", b"\n \n", id="empty"),
        pytest.param("latin.txt", "A café.".encode("latin-1"), id="not UTF-8"),
        pytest.param("cut.gz", gzip.compress(b"A zebra.")[:-9], id="cut off"),
        pytest.param("not.gz", b"A zebra.", id="not compressed"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(name: str, content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} .*one sentence per line"):
        read_sentences(tmp_path / name)


def test_sentences_add_words_and_are_learned(parquet: str, sentences: Path, tmp_path: Path) -> None:
    options = ["--epochs=20", "--learning_rate=0.01", "--dropout=0", "--captions_per_step=1"]
    assert train(parquet, tmp_path / "bundle", *options, f"--sentences={sentences}", "--sentence_weight=1") == 0
    log = log_of(tmp_path / "bundle")
    assert log[-1]["loss"] < log[0]["loss"] - 1
    assert "zebra" in Vocabulary.load(tmp_path / "bundle" / "vocabulary.txt").words


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--sentences=nowhere.txt"], "nowhere.txt cannot be read", id="no file"),
        pytest.param(["--sentences=SENTENCES", "--sentence_weight=0"], "sentence_weight must be above 0", id="weight"),
        pytest.param(["--captions_per_step=-1"], "captions_per_step must be 0 (all) or more", id="captions"),
    ],
)
def test_wrong_usage_is_one_line(
    options: list[str], message: str, parquet: str, sentences: Path, tmp_path: Path, capsys
) -> None:
    options = [option.replace("SENTENCES", str(sentences)) for option in options]
    assert train(parquet, tmp_path / "bundle", *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_extended_bundle_keeps_what_it_knew(tiny_bundle: Path, sentences: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "extended"
    assert extend([str(tiny_bundle), f"--sentences={sentences}", "--min_count=2", f"--output={output}"]) == 0
    words, old = (Vocabulary.load(folder / "vocabulary.txt").words for folder in (output, tiny_bundle))
    assert words == (*old, "zebra")
    assert f"{len(words)} words" in capsys.readouterr().out
    before, after = (load_file(folder / "weights.safetensors") for folder in (tiny_bundle, output))
    np.testing.assert_array_equal(after["decoder/embedding/embeddings"][:-1], before["decoder/embedding/embeddings"])
    np.testing.assert_array_equal(after["decoder/to_vocabulary/kernel"][:, :-1], before["decoder/to_vocabulary/kernel"])
    assert json.loads((output / "config.json").read_text()) == json.loads((tiny_bundle / "config.json").read_text())


def test_without_new_words_nothing_is_written(tiny_bundle: Path, sentences: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "extended"
    assert extend([str(tiny_bundle), f"--sentences={sentences}", "--min_count=9", f"--output={output}"]) == 2
    assert "no new word appears 9 times or more; lower --min_count" in capsys.readouterr().err
    assert not output.exists()


def test_a_shrunk_bundle_keeps_the_weights_of_its_words(tiny_bundle: Path, tmp_path: Path, capsys) -> None:
    old = Vocabulary.load(tiny_bundle / "vocabulary.txt").words
    first, second = old[4], old[-1]  # after the special words
    common, rare = tmp_path / "common.txt", tmp_path / "rare.txt"
    common.write_text(f"{first} {first} {first}\n" * 300 + f"{old[5]}\n")
    rare.write_text(f"{second}\n")  # every word of a text counts by its share there
    output = tmp_path / "small"
    options = [f"--sentences={common}", f"--sentences={rare}", "--min_share=0.01", f"--output={output}"]
    assert shrink([str(tiny_bundle), *options]) == 0
    words = Vocabulary.load(output / "vocabulary.txt").words
    assert words == (*old[:4], first, second)
    assert "6 words" in capsys.readouterr().out
    before, after = (load_file(folder / "weights.safetensors") for folder in (tiny_bundle, output))
    places = [old.index(word) for word in words]
    for name, axis in (("embedding/embeddings", 0), ("to_vocabulary/kernel", 1), ("to_vocabulary/bias", 0)):
        expected = before[f"decoder/{name}"].take(places, axis)
        np.testing.assert_array_equal(after[f"decoder/{name}"], expected)
    same = [name for name in before if "embedding" not in name and "to_vocabulary" not in name]
    assert all(np.array_equal(before[name], after[name]) for name in same)


@pytest.mark.parametrize(
    ("text", "share", "message"),
    [
        pytest.param("zebra\n", "0.5", "no word would stay; change --min_share=0.5", id="none"),
        pytest.param("zebra\n", "0", "all words would stay; change --min_share=0", id="all"),
        pytest.param(None, "0.5", "give the text to count words in: --data, --sentences or both", id="no text"),
    ],
)
def test_nothing_is_shrunk(
    tiny_bundle: Path, text: str | None, share: str, message: str, tmp_path: Path, capsys
) -> None:
    (tmp_path / "text.txt").write_text(text or "")
    given = [f"--sentences={tmp_path}/text.txt"] if text else []
    assert shrink([str(tiny_bundle), *given, f"--min_share={share}", f"--output={tmp_path}/small"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "small").exists()
