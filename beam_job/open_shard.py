"""A shard under way: its rows as they come, the time they took, and its commit."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from beam_job.loading import Loaded
from beam_job.plan import Shard
from beam_job.records import CaptionedImage, Failure
from beam_job.report.thumbnails import NO_PICTURES, Picks, Pictures
from beam_job.run import Run
from beam_job.sink import ShardReport, caption_table, commit_shard


@dataclass(frozen=True)
class ShardResult:
    """A committed shard, and what it took.

    Attributes:
      report: what it came to.
      seconds: spent on it by stage ("fetch", "decode", "caption" and "write"), summed over threads.
      model_seconds: of the model's thread since an earlier shard's result, as `ModelTime.take` gives them.
      image_bytes: of each image that was fetched, as stored.
      batch_fill: of each batch that began with an image of this shard, in percent of its size.
    """

    report: ShardReport
    seconds: Mapping[str, float]
    model_seconds: Mapping[str, float]
    image_bytes: Sequence[int]
    batch_fill: Sequence[int]


class OpenShard:
    """A shard under way: rows as they come, and the future that its submitter waits for."""

    def __init__(self, number: int, shard: Shard, picks: Picks = NO_PICTURES) -> None:
        self.pictures = Pictures(picks, number)
        self.number = number
        self.shard = shard
        self.captioned: list[CaptionedImage] = []
        self.failures: list[Failure] = []
        self.done: Future[ShardResult] = Future()
        self.image_bytes: list[int] = []  # appended to by any thread
        self.batch_fill: list[int] = []
        self._seconds: Counter[str] = Counter()
        self._lock = threading.Lock()

    def spent(self, stage: str, seconds: float) -> None:
        """Adds to a stage's time; any thread may call it."""
        with self._lock:
            self._seconds[stage] += seconds  # type: ignore[assignment]

    def took(self, loaded: Loaded) -> None:
        """Adds what loading an image took; any thread may call it."""
        with self._lock:
            self._seconds["fetch"] += loaded.fetch_seconds  # type: ignore[assignment]
            if loaded.size is not None:
                self._seconds["decode"] += loaded.decode_seconds  # type: ignore[assignment]

    @property
    def seconds(self) -> Mapping[str, float]:
        """By stage, until now."""
        with self._lock:
            return dict(self._seconds)

    def add(self, outcome: CaptionedImage | Failure) -> bool:
        """Takes an image's row; True with the last one."""
        if isinstance(outcome, Failure):
            self.failures.append(outcome)
        else:
            self.captioned.append(outcome)
        return len(self.captioned) + len(self.failures) == len(self.shard.images)

    def commit(self, run: Run, model_version: str, several: bool, min_score: float | None) -> ShardReport:
        """Writes the shard's files, rows in the plan's order."""
        started = time.monotonic()
        for rows in (self.captioned, self.failures):
            rows.sort(key=lambda row: self.shard.place[row.uri])
        carried = self.shard.carried_by(row.uri for row in self.captioned)
        captions = caption_table(self.captioned, model_version, several, carried, min_score)
        report = commit_shard(run, self.number, captions, self.failures, self.shard)
        if report.failures == tuple(self.failures):  # else another attempt was first, and other images have captions
            self.pictures.write(run, self.number, self.captioned)
        self.spent("write", time.monotonic() - started)
        return report

    def result(self, report: ShardReport, model_seconds: Mapping[str, float]) -> ShardResult:
        """What the shard came to, and what it took."""
        return ShardResult(report, self.seconds, model_seconds, self.image_bytes, self.batch_fill)
