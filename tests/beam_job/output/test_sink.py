"""The commit of a shard when attempts are killed, repeated or doubled."""

from __future__ import annotations

import datetime
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_job.output.shard_report import ShardReport
from beam_job.output.sink import commit_shard, publish_failures, read_report
from beam_job.output.tables import caption_table
from beam_job.planning.plan import Shard
from beam_job.planning.run import Run
from beam_job.records import CaptionedImage, Failure, ImageInput
from model import Caption

SHARD = Shard([ImageInput(f"{name}.jpg") for name in "ab01234567"], pa.table({}))
NOON = datetime.datetime(2026, 1, 2, 12, tzinfo=datetime.timezone.utc)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(str(tmp_path), "r1")


def captioned(uri: str, *texts: str) -> CaptionedImage:
    return CaptionedImage(uri, tuple(Caption(text, -0.5) for text in texts or ("a dog",)), 30, 20, "v1", NOON)


def failure(uri: str, message: str = "gone") -> Failure:
    return Failure(uri, "fetch", "FileNotFoundError", message, False, "v1", NOON)


def commit(run: Run, rows: list[CaptionedImage], failures: list[Failure], several: bool = False) -> ShardReport:
    return commit_shard(run, 0, caption_table(rows, "model-1", several), failures, SHARD)


def test_schema_and_values(run: Run) -> None:
    commit(run, [captioned("a.jpg")], [failure("b.jpg")])
    captions = pq.read_table(run.captions(0), partitioning=None)
    assert {field.name: str(field.type) for field in captions.schema} == {
        "uri": "string",
        "caption": "string",
        "score": "float",
        "low_confidence": "bool",
        "captions": "list<element: string>",
        "scores": "list<element: float>",
        "width": "int32",
        "height": "int32",
        "object_version": "string",
        "model_version": "string",
        "captioned_at": "timestamp[ms, tz=UTC]",
    }
    assert captions.to_pylist() == [
        {
            "uri": "a.jpg",
            "caption": "a dog",
            "score": -0.5,
            "low_confidence": None,
            "captions": None,
            "scores": None,
            "width": 30,
            "height": 20,
            "object_version": "v1",
            "model_version": "model-1",
            "captioned_at": NOON,
        }
    ]
    assert pq.read_metadata(run.captions(0)).row_group(0).column(0).compression == "ZSTD"
    failures = pq.read_table(run.failures(0), partitioning=None)
    assert failures.schema.field("transient").type == pa.bool_()
    assert failures.to_pylist() == [
        {
            "uri": "b.jpg",
            "stage": "fetch",
            "error_type": "FileNotFoundError",
            "error_message": "gone",
            "transient": False,
            "object_version": "v1",
            "failed_at": NOON,
            "retry_when": "content",
        }
    ]


def test_several_captions(run: Run) -> None:
    commit(run, [captioned("a.jpg", "a dog", "a cat")], [], several=True)
    [row] = pq.read_table(run.captions(0), partitioning=None).to_pylist()
    assert (row["caption"], row["captions"], row["scores"]) == ("a dog", ["a dog", "a cat"], [-0.5, -0.5])


def test_captions_below_the_score_that_was_asked_for_are_marked(run: Run) -> None:
    rows = [
        CaptionedImage(f"{name}.jpg", (Caption("a dog", score),), 30, 20, "v1", NOON)
        for name, score in (("a", -1.25), ("b", -1.0), ("0", -0.5))
    ]
    report = commit_shard(run, 0, caption_table(rows, "model-1", False, None, -1.0), [], SHARD)
    table = pq.read_table(run.captions(0), partitioning=None)
    assert table.column_names[:4] == ["uri", "caption", "score", "low_confidence"]
    assert table["low_confidence"].to_pylist() == [True, False, False]
    assert read_report(run, 0) == report == ShardReport(3, (), low_confidence=1)


@pytest.mark.parametrize("score", [-1e300, 1e300, float("inf"), float("-inf"), float("nan"), -3.4e38, 1e-45])
def test_odd_scores_do_not_break_a_commit(run: Run, score: float) -> None:
    rows = [
        CaptionedImage(f"{n}.jpg", (Caption("a dog", s),), 30, 20, "v1", NOON) for n, s in enumerate((score, -0.25))
    ]
    report = commit_shard(run, 0, caption_table(rows, "model-1", False, None, -1.0), [], SHARD)
    again = read_report(run, 0)
    assert report.captions == again.captions == 2
    assert again.scores == report.scores
    assert again.scores[-3] == 1


def test_a_shard_without_captions_marks_none(run: Run) -> None:
    commit_shard(run, 0, caption_table([], "model-1", True, None, -1.0), [failure("a.jpg")], SHARD)
    assert pq.read_schema(run.captions(0)).field("low_confidence").type == pa.bool_()
    assert read_report(run, 0).low_confidence == 0


def test_a_shard_without_failures_has_no_failures_file(run: Run) -> None:
    commit(run, [captioned("a.jpg")], [])
    assert Path(run.captions(0)).exists()
    assert not Path(run.failures(0)).exists()


def test_a_shard_without_captions_is_still_committed(run: Run) -> None:
    commit(run, [], [failure("a.jpg")])
    assert read_report(run, 0) == ShardReport(0, (failure("a.jpg"),))


def test_the_first_attempt_stands_whatever_the_second_saw(run: Run) -> None:
    first = commit(run, [captioned("a.jpg")], [failure("b.jpg")])
    before = {path: path.read_bytes() for path in Path(run.output).rglob("*.parquet")}
    assert commit(run, [captioned("a.jpg", "another"), captioned("b.jpg")], []) == first
    assert commit(run, [], [failure("a.jpg", "worse"), failure("b.jpg", "too")]) == first
    assert {path: path.read_bytes() for path in Path(run.output).rglob("*.parquet")} == before


def test_an_attempt_killed_between_its_files_is_completed_by_the_next(run: Run) -> None:
    commit(run, [captioned("a.jpg")], [failure("b.jpg")])
    Path(run.failures(0)).unlink()
    publish_failures(run, 0, read_report(run, 0), SHARD)
    assert pq.read_table(run.failures(0), partitioning=None)["uri"].to_pylist() == ["b.jpg"]


def test_attempts_at_the_same_time_agree(run: Run) -> None:
    """Each attempt sees another image fail; whichever wins, every URI stands once."""
    uris = [f"{n}.jpg" for n in range(8)]

    def attempt(bad: str) -> ShardReport:
        return commit(run, [captioned(uri) for uri in uris if uri != bad], [failure(bad)])

    with ThreadPoolExecutor(8) as threads:
        reports = list(threads.map(attempt, uris))
    assert len(set(reports)) == 1
    captions = pq.read_table(run.captions(0), partitioning=None)["uri"].to_pylist()
    failures = pq.read_table(run.failures(0), partitioning=None)["uri"].to_pylist()
    assert sorted(captions + failures) == uris
