"""The output: Arrow schemas, and the commit of a shard as one atomic file.

A shard is done when its captions file exists. That file is created once and never replaced, and its metadata holds the
shard's failures, so that one atomic step decides the shard's result: of two attempts at a shard, the first to create
the file wins, whatever the other saw. The failures file is derived from it.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from beam_job.inputs.prompts import Prompt
from beam_job.output.formats import PARQUET_FORMAT, damaged_part, open_part
from beam_job.planning.plan import Shard
from beam_job.planning.run import Run
from beam_job.records import CaptionedImage, Failure
from beam_job.storage import CONTENT
from beam_job.storage.parquet import parquet_bytes

LOW_CONFIDENCE = "low_confidence"
_TIME = pa.timestamp("ms", tz="UTC")
_REPORT = b"caption_images.shard"
_PART = re.compile(r"part-(\d+)\.parquet")
_THREADS = 16

FAILURE_SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("stage", pa.string()),
        ("error_type", pa.string()),
        ("error_message", pa.string()),
        ("transient", pa.bool_()),
        ("object_version", pa.string()),
        ("failed_at", _TIME),
        ("retry_when", pa.string()),
    ]
)


def caption_schema(prompts: Sequence[Prompt] = ()) -> pa.Schema:
    """The columns of `captions/`: the same in every run, so that readers of one schema can read all of them.

    Only a prompt with a name has columns of its own, for its caption and its score.
    """
    named: list[tuple[str, pa.DataType]] = []
    for prompt in prompts:
        named += zip(prompt.own_columns, (pa.string(), pa.float32()), strict=False)
    return pa.schema(
        [
            ("uri", pa.string()),
            ("caption", pa.string()),
            ("score", pa.float32()),
            (LOW_CONFIDENCE, pa.bool_()),
            ("captions", pa.list_(pa.string())),
            ("scores", pa.list_(pa.float32())),
            *named,
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("object_version", pa.string()),
            ("model_version", pa.string()),
            ("captioned_at", _TIME),
        ]
    )


def unfilled_columns(several: bool, marked: bool) -> list[str]:
    """The columns of `captions/` that are null without several captions of an image, or without --min_score."""
    return [*([] if several else ["captions", "scores"]), *([] if marked else [LOW_CONFIDENCE])]


@dataclass(frozen=True)
class ShardCounts:
    """The row counts of one or more shards; they add up.

    Attributes:
      captions: rows of captions files.
      failures: rows of failures files by "stage: error type".
      low_confidence: captions below --min_score.
      scores: captions by score, in steps of 0.1, each named by its lower end in tenths.
      words: captions by number of words.
      work: what the attempt took that wrote the shard, by name: milliseconds of a stage, bytes, batches.
      copies: images with the captions of another one, with `--dedupe`.
      bad_files: of the failures, those of files that are no images: only other content can help.
    """

    captions: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    low_confidence: int = 0
    scores: Counter[int] = field(default_factory=Counter)
    words: Counter[int] = field(default_factory=Counter)
    work: Counter[str] = field(default_factory=Counter)
    copies: int = 0
    bad_files: int = 0

    def __add__(self, other: ShardCounts) -> ShardCounts:
        return ShardCounts(
            self.captions + other.captions,
            self.failures + other.failures,
            self.low_confidence + other.low_confidence,
            self.scores + other.scores,
            self.words + other.words,
            self.work + other.work,
            self.copies + other.copies,
            self.bad_files + other.bad_files,
        )


@dataclass(frozen=True)
class ShardReport:
    """What the footer of a shard's captions file says: its failures, and its row counts as in `ShardCounts`."""

    captions: int
    failures: tuple[Failure, ...]
    low_confidence: int = 0
    scores: Mapping[int, int] = field(default_factory=dict, compare=False)
    words: Mapping[int, int] = field(default_factory=dict, compare=False)
    work: Mapping[str, int] = field(default_factory=dict, compare=False)
    copies: int = 0

    @property
    def counts(self) -> ShardCounts:
        """Without the failures themselves, which may be many."""
        reasons = Counter(f"{failure.stage}: {failure.error_type}" for failure in self.failures)
        counts = Counter(self.scores), Counter(self.words), Counter(self.work)
        bad_files = sum(failure.retry_when == CONTENT for failure in self.failures)
        return ShardCounts(self.captions, reasons, self.low_confidence, *counts, self.copies, bad_files)


def commit_shard(
    run: Run,
    number: int,
    captions: pa.Table,
    failures: Sequence[Failure],
    shard: Shard,
    work: Mapping[str, int] | None = None,
    copies: int = 0,
) -> ShardReport:
    """Makes this attempt the shard's result, unless another was first.

    Args:
      run: that the shard belongs to.
      number: the shard's.
      captions: as `caption_table` makes it.
      failures: of the shard's other images.
      shard: as planned.
      work: see `ShardReport`.
      copies: likewise.

    Returns:
      the report of the attempt that was first.

    Raises:
      StorageError: the files cannot be written, or the other attempt's file is damaged.
    """
    marked = pc.sum(captions[LOW_CONFIDENCE]).as_py()
    scores = _score_counts(captions["score"])
    words = Counter(len(caption.split()) for caption in captions["caption"].to_pylist())
    report = ShardReport(captions.num_rows, tuple(failures), marked or 0, scores, words, work or {}, copies)
    content = parquet_bytes(captions.replace_schema_metadata({_REPORT: _to_json(report), **PARQUET_FORMAT}))
    if not run.storage.create(run.captions(number), content):
        report = read_report(run, number)
    publish_failures(run, number, report, shard)
    return report


def publish_failures(run: Run, number: int, report: ShardReport, shard: Shard) -> None:
    """Writes the failures file that belongs to a committed shard; a repeated call writes the same file."""
    if report.failures:
        rows = [dataclasses.asdict(failure) for failure in report.failures]
        carried = shard.carried_by(failure.uri for failure in report.failures)
        table = _with_columns(pa.Table.from_pylist(rows, FAILURE_SCHEMA), carried)
        run.storage.write(run.failures(number), parquet_bytes(table.replace_schema_metadata(PARQUET_FORMAT)))


def read_report(run: Run, shard: int) -> ShardReport:
    """The report of a committed shard, from the footer of its captions file.

    Raises:
      StorageError: the file cannot be read, is damaged, or was written by a newer version.
    """
    uri = run.captions(shard)
    footer = open_part(uri).metadata
    try:
        return _from_json(footer.num_rows, (footer.metadata or {})[_REPORT])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged_part(uri, f"its report: {error!r}") from error


def committed_shards(run: Run) -> list[int]:
    """The numbers of the shards that are done."""
    files = run.storage.list(run.captions_folder)
    names = (posixpath.basename(stored.uri) for stored in files)
    return sorted(int(match.group(1)) for match in map(_PART.fullmatch, names) if match)


def read_counts(run: Run, shards: Iterable[int]) -> Iterator[ShardCounts]:
    """The counts of these committed shards, in their order."""
    with ThreadPoolExecutor(_THREADS) as threads:
        yield from threads.map(lambda shard: read_report(run, shard).counts, shards)


def caption_table(
    captioned: Sequence[CaptionedImage],
    model_version: str,
    several: bool,
    carried: pa.Table | None = None,
    min_score: float | None = None,
    prompts: Sequence[Prompt] = (),
    image_columns: Sequence[str] = (),
) -> pa.Table:
    """The rows of a captions file.

    Args:
      captioned: the images.
      model_version: the captioner's.
      several: whether to fill the columns `captions` and `scores`, which are null otherwise.
      carried: columns of the user's list, a row for each of `captioned`; they come last.
      min_score: where given, the column `low_confidence` says whether `score`, as stored, is lower; null without it and
        where there is no score.
      prompts: of the job, whose captions are each image's `by_prompt`.
      image_columns: of the job, whose values are each image's own.
    """
    columns: dict[str, Sequence[Any]] = {
        "uri": [image.uri for image in captioned],
        "caption": [image.captions[0].text for image in captioned],
        "score": [image.captions[0].score for image in captioned],
        LOW_CONFIDENCE: [None] * len(captioned),
        "captions": [[caption.text for caption in image.captions] if several else None for image in captioned],
        "scores": [[caption.score for caption in image.captions] if several else None for image in captioned],
        "width": [image.width for image in captioned],
        "height": [image.height for image in captioned],
        "object_version": [image.object_version for image in captioned],
        "model_version": [model_version] * len(captioned),
        "captioned_at": [image.captioned_at for image in captioned],
    }
    for place, prompt in enumerate(prompts):
        found = [image.by_prompt[place] for image in captioned]
        values = [caption.text for caption in found], [caption.score for caption in found]
        columns |= zip(prompt.own_columns, values, strict=False)
    schema = caption_schema(prompts)
    table = pa.table([pa.array(columns[column.name], column.type) for column in schema], schema)
    if min_score is not None:
        table = mark_low_scores(table, min_score)
    for name in image_columns:
        kind = pa.int64() if name == "bytes" else pa.string()
        table = table.append_column(name, pa.array([image.image_columns.get(name) for image in captioned], kind))
    return table if carried is None else _with_columns(table, carried)


def mark_low_scores(captions: pa.Table, min_score: float) -> pa.Table:
    """The same rows, whose `low_confidence` says whether `score` is lower; null where there is no score."""
    place = captions.schema.get_field_index(LOW_CONFIDENCE)
    marks = pc.less(captions["score"], min_score)
    if place < 0:  # files of earlier versions
        return captions.add_column(captions.schema.get_field_index("score") + 1, LOW_CONFIDENCE, marks)
    return captions.set_column(place, LOW_CONFIDENCE, marks)


def _with_columns(table: pa.Table, others: pa.Table) -> pa.Table:
    for column in others.schema:
        table = table.append_column(column, others[column.name])
    return table


def _to_json(report: ShardReport) -> bytes:
    failures = [
        dataclasses.asdict(failure) | {"failed_at": failure.failed_at.isoformat()} for failure in report.failures
    ]
    content = {
        "failures": failures,
        "low_confidence": report.low_confidence,
        "scores": report.scores,
        "words": report.words,
        "work": report.work,
        "copies": report.copies,
    }
    return json.dumps(content).encode()


def _from_json(captions: int, content: bytes) -> ShardReport:
    report = json.loads(content)
    names = {field.name for field in dataclasses.fields(Failure)}
    rows = [{name: value for name, value in row.items() if name in names} for row in report["failures"]]
    failures = tuple(Failure(**row | {"failed_at": datetime.datetime.fromisoformat(row["failed_at"])}) for row in rows)
    # Reports of the first versions lack these.
    scores, words = ({int(step): count for step, count in report.get(name, {}).items()} for name in ("scores", "words"))
    low_confidence, work, copies = report.get("low_confidence", 0), report.get("work", {}), report.get("copies", 0)
    return ShardReport(captions, failures, low_confidence, scores, words, work, copies)


def _score_counts(scores: pa.ChunkedArray) -> Counter[int]:
    """The finite scores by step; a captioner's own score may be anything."""
    return Counter(math.floor(10 * score) for score in scores.to_pylist() if score is not None and math.isfinite(score))
