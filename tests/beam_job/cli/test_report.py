"""The captions that a terminal shows at the end of a run."""

from __future__ import annotations

import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from beam_job.cli.report import first_captions
from beam_job.output.sink import caption_table, commit_shard
from beam_job.planning.plan import Shard
from beam_job.planning.run import Run
from beam_job.records import CaptionedImage, ImageInput
from model import Caption

NOON = datetime.datetime(2026, 1, 2, 12, tzinfo=datetime.timezone.utc)


def test_the_first_five_captions_are_shown_with_the_names_of_their_files(tmp_path: Path) -> None:
    uris = [f"/photos/{name}.jpg" for name in ("a", "bcd", "e\x1b", "f", "g", "h")]
    rows = [CaptionedImage(uri, (Caption("a dog", -0.5),), 30, 20, "v1", NOON) for uri in uris]
    run = Run(str(tmp_path), "r1")
    commit_shard(run, 0, caption_table(rows, "model-1", False), [], Shard([ImageInput(u) for u in uris], pa.table({})))
    summary: Any = SimpleNamespace(run_id="r1")
    lines = first_captions(summary, str(tmp_path))
    assert lines[:2] == ["a.jpg      a dog", "bcd.jpg    a dog"]
    assert len(lines) == 5
    assert "\x1b" not in "".join(lines)


def test_without_a_file_none_are_shown(tmp_path: Path) -> None:
    summary: Any = SimpleNamespace(run_id="r1")
    assert first_captions(summary, str(tmp_path)) == []
