"""The report that the captions file of a shard keeps in its footer, and the row counts of shards, which add up."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from beam_job.output.tables import LOW_CONFIDENCE
from beam_job.records import Failure
from beam_job.storage import CONTENT


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

    @classmethod
    def of(cls, captions: pa.Table, failures: Sequence[Failure], work: Mapping[str, int], copies: int) -> ShardReport:
        """The report of these rows of a captions file, and of the failures of the shard's other images."""
        low_confidence = pc.sum(captions[LOW_CONFIDENCE]).as_py() or 0
        scores = _score_counts(captions["score"])
        words = Counter(len(caption.split()) for caption in captions["caption"].to_pylist())
        return cls(captions.num_rows, tuple(failures), low_confidence, scores, words, work, copies)

    @classmethod
    def from_json(cls, captions: int, content: bytes) -> ShardReport:
        """The report of a file with so many captions, from what `to_json` wrote.

        Raises:
          ValueError, KeyError, TypeError, AttributeError: it is something else.
        """
        report = json.loads(content)
        names = {field.name for field in dataclasses.fields(Failure)}
        rows = [{name: value for name, value in row.items() if name in names} for row in report["failures"]]
        failures = tuple(
            Failure(**row | {"failed_at": datetime.datetime.fromisoformat(row["failed_at"])}) for row in rows
        )
        # Reports of the first versions lack these.
        scores, words = (
            {int(step): count for step, count in report.get(name, {}).items()} for name in ("scores", "words")
        )
        low_confidence, work, copies = report.get("low_confidence", 0), report.get("work", {}), report.get("copies", 0)
        return cls(captions, failures, low_confidence, scores, words, work, copies)

    @property
    def counts(self) -> ShardCounts:
        """Without the failures themselves, which may be many."""
        reasons = Counter(f"{failure.stage}: {failure.error_type}" for failure in self.failures)
        counts = Counter(self.scores), Counter(self.words), Counter(self.work)
        bad_files = sum(failure.retry_when == CONTENT for failure in self.failures)
        return ShardCounts(self.captions, reasons, self.low_confidence, *counts, self.copies, bad_files)

    def to_json(self) -> bytes:
        """The report as the captions file keeps it, without the number of captions, which is that of its rows."""
        failures = [
            dataclasses.asdict(failure) | {"failed_at": failure.failed_at.isoformat()} for failure in self.failures
        ]
        content = {
            "failures": failures,
            "low_confidence": self.low_confidence,
            "scores": self.scores,
            "words": self.words,
            "work": self.work,
            "copies": self.copies,
        }
        return json.dumps(content).encode()


def _score_counts(scores: pa.ChunkedArray) -> Counter[int]:
    """The finite scores by step; a captioner's own score may be anything."""
    return Counter(math.floor(10 * score) for score in scores.to_pylist() if score is not None and math.isfinite(score))
