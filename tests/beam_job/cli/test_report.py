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
from beam_job.output.sink import caption_table, commit_shard
from beam_job.output.summary import Summary
from beam_job.planning.plan import Shard
from beam_job.planning.run import Run
from beam_job.records import CaptionedImage, ImageInput
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


@pytest.mark.parametrize("examples", [True, False])
@pytest.mark.parametrize("kind", [Terminal, io.StringIO])
def test_a_terminal_shows_examples_unless_a_table_of_all_follows(
    kind: type[io.StringIO], examples: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(["/photos/a.jpg"], tmp_path)
    counts: Any = {"inputs": 1, "captions": 1, "failures": 0, "skipped": 0, "seconds": 1.0, "bytes_fetched": 0}
    unknown = dict.fromkeys(["low_confidence", "images_per_second", "model_share", "batch_fill"])
    names = ["seconds_by_stage", "wait_seconds", "scores", "words", "options", "failures_by_reason"]
    metrics: Any = {name: {} for name in names}
    summary = Summary(run_id="r1", model="m", ran_with=(), **metrics, **unknown, **counts)
    stream = kind()
    monkeypatch.setattr(sys, "stderr", stream)
    with log_to(stream):
        assert report(summary, JobConfig(("photos",), str(tmp_path)), examples) == 0
    assert ("a.jpg  a dog" in stream.getvalue()) == (kind is Terminal and examples)
    assert "1 caption and 0 failures of 1 image" in stream.getvalue()
