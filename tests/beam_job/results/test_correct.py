"""`correct`: what people say of captions is checked and kept, and wins in `snapshot` and `export`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from PIL import Image

from beam_job.cli.command import main
from tests.fakes import FakeCaptioner
from tests.images import encode


class Desk:
    """An output, and somebody who reads it and writes corrections."""

    def __init__(self, root: Path) -> None:
        self.root, self.photos, self.output = root, root / "photos", root / "out"

    def begin(self) -> Desk:
        self.photos.mkdir()
        for number, name in enumerate(("a.png", "b.png", "c.png")):
            self.paint(name, 10 * (number + 1))
        self.run()
        return self

    def paint(self, name: str, grey: int) -> None:
        (self.photos / name).write_bytes(encode(Image.new("RGB", (20, 10), (grey,) * 3), "PNG"))

    def run(self, *options: str) -> None:
        arguments = [f"--input={self.photos}", f"--output={self.output}"]
        assert main([*arguments, *options]) == 0

    def line(self, name: str, **said: object) -> str:
        row = self.snapshot()[name]
        return json.dumps({"uri": row["uri"], "object_version": row["object_version"], **said})

    def correct(self, *lines: str | bytes) -> int:
        content = b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines)
        (self.root / "corrections.jsonl").write_bytes(content)
        return main(["correct", f"--output={self.output}", f"{self.root}/corrections.jsonl"])

    def snapshot(self) -> dict[str, dict]:
        assert main(["snapshot", f"--output={self.output}", f"--to={self.root}/snapshot"]) == 0
        return {
            Path(row["uri"]).name: row for row in ds.dataset(self.root / "snapshot" / "data").to_table().to_pylist()
        }

    def said(self) -> dict[str, tuple[str, str | None]]:
        return {name: (row["caption"], row["correction"]) for name, row in self.snapshot().items()}

    def kept(self) -> list[str]:
        folder = self.output / "corrections"
        return sorted(os.listdir(folder)) if folder.exists() else []


@pytest.fixture(scope="module", autouse=True)
def fake_model() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "beam_job.captioning.caption_shards.load_captioner",
            lambda _, decoding, *__: FakeCaptioner(num_captions=decoding.num_captions),
        )
        yield


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A desk for all tests that are refused."""
    return Desk(tmp_path_factory.mktemp("desk")).begin()


@pytest.fixture
def desk(untouched: Desk, tmp_path: Path) -> Desk:
    """A desk with an output of its own; the photographs are those of `untouched`."""
    copy = Desk(tmp_path)
    copy.photos = untouched.photos
    shutil.copytree(untouched.output, copy.output)
    return copy


def test_corrections_win_in_snapshot_and_export(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    edited, bad = desk.line("a.png", caption="ein Hund, <b>groß</b>, 猫"), desk.line("b.png", bad=True)
    assert desk.correct(edited, "", bad) == 0
    assert "2 corrections added to " in capfd.readouterr().out
    rows = desk.snapshot()
    assert capfd.readouterr().out == f"3 captions (1 edited, 1 marked bad) in {desk.root}/snapshot/data, 0 failures\n"
    assert {name: (row["caption"], row["correction"], row["score"]) for name, row in rows.items()} == {
        "a.png": ("ein Hund, <b>groß</b>, 猫", "edited", None),
        "b.png": ("brightness 20", "bad", pytest.approx(-0.2)),
        "c.png": ("brightness 30", None, pytest.approx(-0.3)),
    }
    to = desk.root / "side"
    assert main(["export", f"--output={desk.output}", "--format=sidecar", f"--root={desk.photos}", f"--to={to}"]) == 0
    assert "1 marked bad left out" in capfd.readouterr().out
    texts = {path.name: path.read_text() for path in to.glob("*.txt")}
    assert texts == {"a.txt": "ein Hund, <b>groß</b>, 猫\n", "c.txt": "brightness 30\n"}


def test_a_persons_caption_is_the_only_one(desk: Desk) -> None:
    desk.run("--num_captions=2")
    assert desk.correct(desk.line("a.png", caption="mine")) == 0
    rows = desk.snapshot()
    assert (rows["a.png"]["captions"], rows["a.png"]["scores"]) == (["mine"], None)
    assert rows["b.png"]["captions"] == ["brightness 20"] * 2
    assert len(rows["b.png"]["scores"]) == 2


def test_the_newest_wins_and_can_be_taken_back(desk: Desk) -> None:
    first, second = desk.line("a.png", caption="first"), desk.line("a.png", caption="second")
    assert desk.correct(first, second) == 0
    assert desk.said()["a.png"] == ("second", "edited")
    assert desk.correct(desk.line("a.png", bad=True)) == 0
    assert desk.said()["a.png"] == ("brightness 10", "bad")
    assert desk.correct(desk.line("a.png", bad=False)) == 0
    assert desk.said()["a.png"] == ("brightness 10", None)
    assert len(desk.kept()) == 3


def test_a_return_to_earlier_options_returns_to_their_captions(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    """The job has nothing to caption, and the snapshot is of the options that it was started with."""
    first = {row["run"] for row in desk.snapshot().values()}
    desk.run("--num_captions=2")
    assert {len(row["captions"]) for row in desk.snapshot().values()} == {2}
    desk.run()
    assert "nothing to do" in capfd.readouterr().err
    assert {row["run"] for row in desk.snapshot().values()} == first
    assert main(["status", f"--output={desk.output}"]) == 0
    out = capfd.readouterr().out
    assert "nothing to do, 3 already done" in out
    assert "would caption 0 images and skip 3 images already done" in out


def test_what_was_said_before_another_word_counts_again(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    """A, B, A: the third is news, though its file is the first one's."""
    first, second = desk.line("a.png", caption="first"), desk.line("a.png", caption="second")
    for line, caption in ((first, "first"), (second, "second"), (first, "first")):
        capfd.readouterr()
        assert desk.correct(line) == 0
        assert "1 correction added to" in capfd.readouterr().out
        assert desk.said()["a.png"] == (caption, "edited")
    assert len(desk.kept()) == 3
    bad, good = desk.line("a.png", bad=True), desk.line("a.png", bad=False)
    for line, said in ((bad, "bad"), (good, None), (bad, "bad"), (good, None)):
        assert desk.correct(line) == 0
        assert desk.said()["a.png"][1] == said


def test_a_file_of_which_anything_is_new_is_added(desk: Desk) -> None:
    one, other = desk.line("a.png", caption="a"), desk.line("b.png", caption="b")
    assert desk.correct(one, other) == 0
    assert desk.correct(desk.line("b.png", caption="c")) == 0
    assert desk.correct(one, other) == 0
    assert {name: caption for name, (caption, _) in desk.said().items()} == {
        "a.png": "a",
        "b.png": "b",
        "c.png": "brightness 30",
    }
    kept = desk.kept()
    assert desk.correct(one) == 0  # in force, though no file holds it alone
    assert desk.kept() == kept


def test_a_clock_that_is_behind_does_not_matter(desk: Desk) -> None:
    assert desk.correct(desk.line("a.png", caption="first")) == 0
    folder = desk.output / "corrections"
    [first] = folder.iterdir()
    first.rename(folder / f"29991231T235959999Z-{first.name.split('-')[1]}")
    assert desk.correct(desk.line("a.png", caption="second")) == 0
    assert desk.correct(desk.line("a.png", caption="third")) == 0
    assert desk.said()["a.png"] == ("third", "edited")


def test_they_survive_runs_until_the_image_changes(tmp_path: Path, capfd) -> None:
    desk = Desk(tmp_path).begin()
    stale = desk.line("a.png", caption="mine")
    assert desk.correct(stale) == 0
    desk.run("--recaption")
    assert desk.said()["a.png"] == ("mine", "edited")
    desk.paint("a.png", 200)
    desk.run()
    assert desk.said()["a.png"] == ("brightness 200", None)
    capfd.readouterr()
    assert desk.correct(stale, desk.line("b.png", caption="theirs")) == 0
    assert "1 correction of an earlier version of an image" in capfd.readouterr().out
    assert desk.said()["a.png"] == ("brightness 200", None)
    assert desk.said()["b.png"] == ("theirs", "edited")


def test_the_same_file_twice_adds_nothing(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    line = desk.line("a.png", caption="mine")
    assert desk.correct(line) == 0
    kept = desk.kept()
    capfd.readouterr()
    assert desk.correct("\ufeff" + line + "\r", "") == 0  # as an editor on Windows leaves it
    assert "nothing changed" in capfd.readouterr().out
    assert desk.kept() == kept


WRONG = {
    "no JSON": ("{nope", "'{nope' is not JSON in UTF-8"),
    "no UTF-8": (b'{"uri": "\xff"}', "is not JSON in UTF-8"),
    "nested without end": ("[" * 100_000, "is not JSON"),
    "no object": ("[1]", "[1] is not an object"),
    "a member too many": ({"caption": "x", "captoin": "x"}, "'captoin' is not a member of a correction"),
    "nothing said": ({}, "it needs either caption or bad"),
    "both said": ({"caption": "x", "bad": True}, "it needs either caption or bad"),
    "a caption that is none": ({"caption": 7}, "caption is 7; write a text"),
    "an empty caption": ({"caption": "  "}, "caption is '  '; write a text"),
    "two lines": ({"caption": "x\ny"}, r"caption holds '\n'; write one line"),
    "a terminal's command": ({"caption": "\x1b[2J"}, r"caption holds '\x1b'"),
    "half a character": ({"caption": "\ud800"}, "half a character"),
    "a book": ({"caption": "x" * 3000}, "caption has 3,000 characters"),
    "bad that is no truth": ({"bad": "yes"}, "bad is 'yes'; write true or false"),
    "a number for a version": ({"object_version": 7, "bad": True}, "object_version is 7; copy it as text"),
    "a version that never was": ({"object_version": "1-1", "bad": True}, "'1-1' of '/"),
    "another image": ({"uri": "/photos/\x1bz.png", "bad": True}, r"no run has captioned uri '/photos/\x1bz.png' into "),
}


@pytest.mark.parametrize(("line", "told"), WRONG.values(), ids=WRONG)
def test_one_wrong_line_and_nothing_is_added(untouched: Desk, capfd, line: str | bytes | dict, told: str) -> None:
    desk = untouched
    good = desk.line("a.png", caption="mine")
    wrong = json.dumps(json.loads(desk.line("b.png")) | line) if isinstance(line, dict) else line
    capfd.readouterr()
    assert desk.correct(good, wrong) == 2
    error = capfd.readouterr().err
    assert error.startswith("caption-images: nothing was added: 1 line of ")
    assert "cannot be used:\n  line 2: " in error
    assert told in error
    assert len(error) < 1000
    assert "\x1b" not in error
    assert desk.kept() == []


def test_missing_members_and_empty_files(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    assert desk.correct('{"uri": "a"}', '{"object_version": null}') == 2
    error = capfd.readouterr().err
    assert "line 1: object_version is missing" in error
    assert "line 2: uri is missing" in error
    assert desk.correct("") == 2
    assert "corrections.jsonl holds no correction" in capfd.readouterr().err
    assert main(["correct", f"--output={desk.output}", f"{desk.root}/none.jsonl"]) == 2
    assert "none.jsonl: No such file" in capfd.readouterr().err
    assert desk.correct(*["x"] * 50) == 2
    assert "and 30 more" in capfd.readouterr().err


def test_a_newer_format_asks_for_an_upgrade_and_the_own_one_can_be_added_elsewhere(desk: Desk, capfd) -> None:
    assert desk.correct(desk.line("a.png", caption="mine")) == 0
    [stored] = (desk.output / "corrections").iterdir()
    assert stored.read_text().startswith('{"format": 1}\n')
    assert main(["correct", f"--output={desk.output}", str(stored)]) == 0
    stored.write_text(stored.read_text().replace('"format": 1', '"format": 2'))
    assert main(["snapshot", f"--output={desk.output}", f"--to={desk.root}/newest"]) == 2
    error = capfd.readouterr().err
    assert f"{stored} was written by a newer version of caption-images (format 2" in error
    assert "remove" not in error


def test_what_somebody_else_put_there_is_named(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    assert desk.correct(desk.line("a.png", caption="mine")) == 0
    (desk.output / "corrections" / "notes.jsonl").write_text("my notes\n")
    assert main(["snapshot", f"--output={desk.output}", f"--to={desk.root}/snapshot"]) == 2
    error = capfd.readouterr().err
    assert f"{desk.output}/corrections/notes.jsonl, line 1: 'my notes' is not JSON" in error
    assert "or remove the file to drop its corrections" in error


def test_corrections_of_a_bucket(bucket, desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    desk.output = f"gs://{bucket.name}/out"
    desk.run()
    assert desk.correct(desk.line("a.png", caption="mine")) == 0
    assert [blob.name.split("/")[:2] for blob in bucket.list_blobs(prefix="out/corrections/")] == [
        ["out", "corrections"]
    ]
    assert desk.said()["a.png"] == ("mine", "edited")


def test_a_list_may_not_carry_the_columns_name(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    (desk.root / "list.jsonl").write_text(json.dumps({"uri": f"{desk.photos}/a.png", "correction": "x"}))
    arguments = [f"--input={desk.root}/list.jsonl", f"--output={desk.output}", "--carry_columns=correction"]
    assert main(arguments) == 2
    assert "correction is a column of the output" in capfd.readouterr().err
