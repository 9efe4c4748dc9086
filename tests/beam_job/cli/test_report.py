"""The captions that a terminal shows at the end of a run."""

from __future__ import annotations

import datetime
import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from beam_job.cli.logs import log_to
from beam_job.cli.report import first_captions, report
from beam_job.config import JobConfig
from beam_job.output.sink import commit_shard
from beam_job.output.summary import Summary
from beam_job.output.tables import caption_table
from beam_job.planning.plan import Shard
from beam_job.planning.run import Run
from beam_job.records import RUN_ENDED, CaptionedImage, Failure, ImageInput
from model import Caption

NOON = datetime.datetime(2026, 1, 2, 12, tzinfo=datetime.timezone.utc)


def commit(uris: list[str], output: Path) -> None:
    rows = [CaptionedImage(uri, (Caption("a dog", -0.5),), 30, 20, "v1", NOON) for uri in uris]
    run = Run(str(output), "r1")
    commit_shard(run, 0, caption_table(rows, "model-1", False), [], Shard([ImageInput(u) for u in uris], pa.table({})))


def test_the_first_five_captions_are_shown_with_the_names_of_their_files(tmp_path: Path) -> None:
    commit([f"/photos/{name}.jpg" for name in ("a", "bcd", "e\x1b", "f", "g", "h")], tmp_path)
    summary: Any = SimpleNamespace(run_id="r1")
    lines = first_captions(summary, str(tmp_path))
    assert lines[:2] == ["a.jpg      a dog", "bcd.jpg    a dog"]
    assert len(lines) == 5
    assert "\x1b" not in "".join(lines)


def test_without_a_file_none_are_shown(tmp_path: Path) -> None:
    summary: Any = SimpleNamespace(run_id="r1")
    assert first_captions(summary, str(tmp_path)) == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def summary_of(**known: Any) -> Summary:
    """A summary of run r1, of one image unless `known` says more."""
    unknown = dict.fromkeys(["low_confidence", "images_per_second", "model_share", "batch_fill"])
    names = ["seconds_by_stage", "wait_seconds", "scores", "words", "options", "failures_by_reason"]
    empty: Any = {name: {} for name in names}
    counts = {"inputs": 1, "captions": 1, "failures": 0, "skipped": 0, "seconds": 1.0, "bytes_fetched": 0}
    return Summary(**{"run_id": "r1", "model": "m", "ran_with": (), **unknown, **empty, **counts, **known})


@pytest.mark.parametrize("examples", [True, False])
@pytest.mark.parametrize("kind", [Terminal, io.StringIO])
def test_a_terminal_shows_examples_unless_a_table_of_all_follows(
    kind: type[io.StringIO], examples: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(["/photos/a.jpg"], tmp_path)
    stream = kind()
    monkeypatch.setattr(sys, "stderr", stream)
    with log_to(stream):
        assert report(summary_of(), JobConfig(("photos",), str(tmp_path)), examples) == 0
    assert ("a.jpg  a dog" in stream.getvalue()) == (kind is Terminal and examples)
    assert "1 caption and 0 failures of 1 image" in stream.getvalue()


def test_each_kind_of_failure_has_its_first_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failures = [
        Failure("/p/a.jpg", "decode", "ImageError", "the file is empty", False),
        Failure("/p/b.jpg", "decode", "ImageError", "another", False),
        Failure("/p/locked", "list", "UnreadableFolder", "/p/locked: Permission denied", False),
        Failure("/p/c.jpg", "caption", RUN_ENDED, "no tokens left", True),
    ]
    run = Run(str(tmp_path), "r1")
    shard = Shard([ImageInput(failure.uri) for failure in failures], pa.table({}))
    commit_shard(run, 0, caption_table([], "model-1", False), failures, shard)
    reasons = {"decode: ImageError": 2, "list: UnreadableFolder": 1, f"caption: {RUN_ENDED}": 1, "fetch: Lost": 1}
    summary = summary_of(inputs=5, captions=0, failures=5, left=1, failures_by_reason=reasons)
    with log_to(sys.stderr):
        assert report(summary, JobConfig(("photos",), str(tmp_path), max_failure_ratio=1)) == 0
    lines = [line.strip() for line in capsys.readouterr().err.splitlines() if " x " in line]
    assert lines == [
        "2 x decode: ImageError, such as /p/a.jpg: the file is empty",
        "1 x list: UnreadableFolder, such as /p/locked: Permission denied",
        f"1 x caption: {RUN_ENDED} (left for the next run)",
        "1 x fetch: Lost",
    ]


@pytest.mark.parametrize(
    ("known", "ratio"),
    [
        pytest.param({"inputs": 1, "captions": 0, "skipped": 9}, 0.0, id="all else done before"),
        pytest.param({"inputs": 3, "captions": 1, "failures": 2}, 0.5, id="one of two images"),
        pytest.param({"inputs": 1, "captions": 0}, 1.0, id="nothing else"),
    ],
)
def test_a_folder_that_may_not_be_read_is_no_image(known: dict[str, int], ratio: float) -> None:
    reasons = {"list: UnreadableFolder": 1}
    assert summary_of(**{"failures": 1, "failures_by_reason": reasons, **known}).failure_ratio == ratio


@pytest.mark.parametrize(
    ("known", "ratio"),
    [
        pytest.param({"inputs": 1, "bad_files": 1, "skipped": 9}, 0.1, id="one bad file of ten images"),
        pytest.param({"inputs": 1, "bad_files": 1}, 1.0, id="a bad file and nothing else"),
        pytest.param({"inputs": 9, "bad_files": 9, "skipped": 1}, 0.9, id="nine bad files of ten images"),
        pytest.param({"inputs": 1, "skipped": 9}, 1.0, id="all that is new cannot be read"),
        pytest.param({"inputs": 4, "captions": 2, "failures": 2, "bad_files": 1, "skipped": 4}, 0.25, id="both"),
        pytest.param({"inputs": 2, "retried": 2, "skipped": 8}, 0.2, id="two that fail every night"),
    ],
)
def test_bad_files_count_among_all_images_and_what_can_be_fixed_among_the_new(
    known: dict[str, int], ratio: float
) -> None:
    failures = known.get("failures", known["inputs"])
    assert summary_of(**{"captions": 0, **known, "failures": failures}).failure_ratio == ratio
