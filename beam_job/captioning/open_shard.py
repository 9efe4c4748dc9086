"""A shard under way: its rows as they come, the time they took, and its commit."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future

from beam_job.loading.loader import Loaded
from beam_job.output.metrics import ShardResult
from beam_job.output.sink import ShardReport, caption_table, commit_shard
from beam_job.output.thumbnails import NO_THUMBNAILS, ShardThumbnails, ThumbnailSampler
from beam_job.planning.plan import Shard
from beam_job.planning.run import Run
from beam_job.records import CaptionedImage, Failure


class OpenShard:
    """A shard under way: rows as they come, and the future that its submitter waits for."""

    def __init__(self, number: int, shard: Shard, sampler: ThumbnailSampler = NO_THUMBNAILS) -> None:
        self.thumbnails = ShardThumbnails(sampler, number)
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
            self.thumbnails.write(run, self.number, self.captioned)
        self.spent("write", time.monotonic() - started)
        return report

    def result(self, report: ShardReport, model_seconds: Mapping[str, float]) -> ShardResult:
        """What the shard came to, and what it took."""
        return ShardResult(report, self.seconds, model_seconds, self.image_bytes, self.batch_fill)
