"""`--dedupe=content`: the captioner sees each content once, and each URI has its own row."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beam_job.captioning import contents as module
from beam_job.captioning.contents import Answer, Claim, Contents, remove_contents
from beam_job.captioning.copies import Copies
from beam_job.cli.command import main
from beam_job.inputs.prompts import Prompt
from beam_job.output.metrics import ShardResult
from beam_job.output.sink import read_report
from beam_job.planning.process_identity import ProcessIdentity, _start_time
from beam_job.planning.run import Run
from beam_job.records import CaptionedImage, DecodedImage, Failure, ImageInput, now
from beam_job.storage import StorageError
from model import Caption, CaptionFailure
from tests.engine_runs import engine_for, rows, shard_of
from tests.fakes import FakeCaptioner
from tests.outputs import table

KEY = bytes(range(32))
ANSWER = Answer("a", CaptionedImage("a", (Caption("a dog", -0.5),), 1, 1, "1", now(), (Caption("a dog", -0.5),)))

GIVEN_UP = Answer("x", Failure("x", "caption", "Busy", "try again", True))


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


def jpeg(folder: Path, brightness: int, name: str) -> ImageInput:
    path = folder / f"{brightness}-{name}.jpg"
    first = folder / f"{brightness}.original"
    if not first.exists():
        Image.new("RGB", (30, 20), (brightness,) * 3).save(first, "JPEG")
    shutil.copy(first, path)
    return ImageInput(str(path))


def run_deduped(run: Run, captioner: FakeCaptioner, *shards: list[ImageInput]) -> list[ShardResult]:
    engine = engine_for(run, captioner, dedupe="content", max_failure_ratio=1)
    futures = [engine.submit(number, shard_of(*shard)) for number, shard in enumerate(shards)]
    engine.close()
    return [future.result(timeout=60) for future in futures]


def seen(captioner: FakeCaptioner) -> list[int]:
    """The brightness of each image that the captioner saw, without the black that fills batches."""
    return sorted(value for batch in captioner.batches for value in batch if value)


def test_each_content_is_captioned_once_and_each_uri_has_its_row(run: Run, tmp_path: Path) -> None:
    shards = [[jpeg(tmp_path, b, f"{n}{copy}") for b in (50, 90) for copy in "abcdef"] for n in range(3)]
    captioner = FakeCaptioner()
    results = run_deduped(run, captioner, *shards)
    assert seen(captioner) == [50, 90]
    assert sum(result.report.copies for result in results) == 3 * 12 - 2
    assert sum(read_report(run, number).copies for number in range(3)) == 3 * 12 - 2
    for number, shard in enumerate(shards):
        found = rows(run, number)
        assert [row["uri"] for row in found] == [image.uri for image in shard]
        assert [row["caption"] for row in found] == [f"brightness {b}" for b in (50, 90) for _ in range(6)]
        assert len({row["object_version"] for row in found}) == 12
        assert [row["place"] for row in found] == list(range(12))
        assert "sha256" not in found[0]


class Refusing(FakeCaptioner):
    """Refuses images of one brightness."""

    max_side = 8

    def __init__(self, retry_when: str) -> None:
        super().__init__()
        self.retry_when = retry_when

    def caption_pictures(self, pictures: list) -> list:
        self.batches.append([round(float(picture.pixels.mean())) for picture in pictures])
        refused = CaptionFailure("refused", self.retry_when)
        return [refused if picture.pixels.mean() > 70 else self._captions(50) for picture in pictures]


@pytest.mark.parametrize(("retry_when", "asked"), [("content", 1), ("later", 2)])
def test_a_refused_content_is_a_failure_of_each_uri(run: Run, tmp_path: Path, retry_when: str, asked: int) -> None:
    """A temporary failure is that of the copies that wait; a later one is tried again."""
    captioner = Refusing(retry_when)
    engine = engine_for(run, captioner, dedupe="content", max_failure_ratio=1)
    for number in range(2):
        images = [jpeg(tmp_path, 90, f"{number}{name}") for name in "abc"]
        report = engine.submit(number, shard_of(*images)).result(timeout=60).report
        assert {failure.uri for failure in report.failures} == {image.uri for image in images}
        assert {(failure.stage, failure.error_message) for failure in report.failures} == {("caption", "refused")}
        assert len({failure.object_version for failure in report.failures}) == 3
    engine.close()
    assert len(seen(captioner)) == asked


def test_a_spent_budget_leaves_what_no_other_image_has(tmp_path: Path) -> None:
    """One picture is captioned, and its copies have its caption, whether they come before or after the end."""
    for brightness in (50, 90):
        for name in "abcdef":
            jpeg(tmp_path, brightness, name)
    arguments = [f"--input={tmp_path}/*.jpg", f"--output={tmp_path}/out", "--captioner=tests.picture_captioner:make"]
    assert main([*arguments, "--model=budget=1", "--dedupe=content", "--shard_size=2", "--fetch_threads=1"]) == 0
    assert len(table(tmp_path / "out", "captions")) == 6
    failures = table(tmp_path / "out", "failures")
    assert [(row["error_type"], row["retry_when"]) for row in failures] == [("EndRun", "later")] * 6


def test_damaged_copies_fail_each_for_itself(run: Run, tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    images = [ImageInput(str(tmp_path / f"{name}.jpg")) for name in "abc"]
    [result] = run_deduped(run, FakeCaptioner(), [*images, jpeg(tmp_path, 50, "a"), jpeg(tmp_path, 50, "b")])
    assert {failure.uri for failure in result.report.failures} == {image.uri for image in images}
    assert (result.report.captions, result.report.copies) == (2, 1)


def test_another_attempt_at_the_same_run_asks_for_nothing_twice(run: Run, tmp_path: Path) -> None:
    """What a killed process has captioned is known, even where its shard was not written; that is no copy."""
    images = [jpeg(tmp_path, 50, "a"), jpeg(tmp_path, 50, "b")]
    run_deduped(run, FakeCaptioner(), images)
    run.storage.delete(run.captions(0))
    captioner = FakeCaptioner()
    [result] = run_deduped(run, captioner, images)
    assert seen(captioner) == []
    assert (result.report.captions, result.report.copies) == (2, 1)
    other = FakeCaptioner()
    run_deduped(Run(run.output, "r2"), other, images)
    assert seen(other) == [50]


def identity(pid: int, started: int | None = None) -> ProcessIdentity:
    return dataclasses.replace(ProcessIdentity.current(), pid=pid, started=started or _start_time(pid) or 0)


def contents_of(identity: ProcessIdentity, monkeypatch: pytest.MonkeyPatch) -> Contents:
    with monkeypatch.context() as patch:
        patch.setattr(module.ProcessIdentity, "current", classmethod(lambda cls: identity))
        return Contents("r1")


def test_a_content_belongs_to_the_first_process_until_that_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    other, here = contents_of(identity(os.getppid()), monkeypatch), Contents("r1")
    assert other.claim(KEY, now()) is Claim.MINE
    assert here.claim(KEY, now()) is Claim.BUSY
    other.put(KEY, ANSWER)
    answer = here.claim(KEY, now())
    assert isinstance(answer, Answer)
    assert isinstance(answer.outcome, CaptionedImage)
    assert (answer.uri, answer.outcome.captions, answer.outcome.by_prompt) == ("a", *2 * (ANSWER.outcome.captions,))
    dead = contents_of(identity(os.getppid(), started=1), monkeypatch)
    assert dead.claim(b"other", now()) is Claim.MINE
    assert here.claim(b"other", now()) is Claim.MINE


def test_an_engine_waits_for_another_process(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [jpeg(tmp_path, brightness, name) for brightness in (50, 90) for name in "abcdefgh"]
    other = contents_of(identity(os.getppid()), monkeypatch)
    keys = [hashlib.sha256(Path(image.uri).read_bytes()).digest() for image in (images[0], images[-1])]
    assert [other.claim(key, now()) for key in keys] == [Claim.MINE, Claim.MINE]
    answers = dict(zip(keys, [ANSWER, GIVEN_UP], strict=True))
    claim = Contents.claim

    def claim_and_answer(self: Contents, key: bytes, time: datetime.datetime) -> Answer | Claim:
        found = claim(self, key, time)
        if found is Claim.BUSY:  # the engine waits from now on
            other.put(key, answers[key])
        return found

    monkeypatch.setattr(Contents, "claim", claim_and_answer)
    captioner = FakeCaptioner()
    [result] = run_deduped(run, captioner, images)
    assert [row["caption"] for row in rows(run, 0)] == ["a dog"] * 8 + ["brightness 90"] * 8
    assert seen(captioner) == [90]
    assert result.report.copies == 15


class Owner:
    """What an image belongs to, with a carried column."""

    def __init__(self, language: str) -> None:
        self.batch_fill: list[int] = []
        self.language = language

    def columns_of(self, uri: str) -> Mapping[str, str]:
        return {"language": self.language}


def test_another_prompt_is_another_question() -> None:
    copies: Copies[Owner] = Copies(Contents("r1"), [Prompt("a", "in {language}"), Prompt("b", "in brief")])
    image = DecodedImage(ImageInput("x"), np.zeros((1, 1, 3), np.uint8), 1, 1, "", image_columns={"sha256": KEY.hex()})
    claims = [copies.claim(Owner(language), image) for language in ("de", "fr", "de")]
    assert claims == [Claim.MINE, Claim.MINE, Claim.BUSY]


def test_a_file_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    Contents("r1").close()
    [path] = (tmp_path / "tmp").glob("caption-images-contents-*/r1.sqlite")
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match=r"--dedupe=content cannot use the file .*r1\.sqlite .*delete the file"):
        Contents("r1")
    remove_contents("r1")
    assert Contents("r1").claim(KEY, now()) is Claim.MINE


def test_a_file_that_was_left_is_removed_after_a_week(tmp_path: Path) -> None:
    Contents("old").close()
    [path] = (tmp_path / "tmp").glob("caption-images-contents-*/old.sqlite")
    os.utime(path, (0, 0))
    Contents("r1").close()
    assert not path.exists()


def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    names = [jpeg(folder, brightness, name).uri for brightness in (50, 90) for name in "abc"]
    arguments = [f"--input={folder}/*.jpg", f"--output={tmp_path}/out", "--captioner=tests.picture_captioner:make"]
    assert main([*arguments, "--dedupe=content", "--image_columns=bytes"]) == 0
    found = {row["uri"]: row for row in table(tmp_path / "out", "captions")}
    assert sorted(found) == sorted(names)
    assert len({row["caption"] for row in found.values()}) == 2
    assert all(row["bytes"] == os.path.getsize(uri) for uri, row in found.items())
    [summary] = tmp_path.glob("out/runs/*/summary.json")
    counted = json.loads(summary.read_text())
    assert (counted["copies"], counted["counts"]) == (4, {"requests": 2})
    assert "4 images with the caption of an identical image (--dedupe=content)" in capfd.readouterr().err
    assert not list((tmp_path / "tmp").glob("caption-images-contents-*/*"))
