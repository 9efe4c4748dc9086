"""A shard in progress: its rows, the time they took, and its commit."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from beam_job.config import JobConfig
from beam_job.loading.loader import LoadEvent
from beam_job.output.metrics import ShardResult, shard_work
from beam_job.output.shard_report import ShardReport
from beam_job.output.sink import commit_shard
from beam_job.output.tables import caption_table
from beam_job.output.thumbnails import NO_THUMBNAILS, ShardThumbnails, ThumbnailSampler
from beam_job.planning.plan import Shard
from beam_job.planning.run import Run
from beam_job.records import CaptionedImage, DecodedImage, Failure, ImageInput
from beam_job.storage import OPTIONS


class OpenShard:
    """A shard under way; the model's thread fills it, then the writer's thread commits it.

    Attributes:
      number: of the shard.
      shard: as planned.
      done: what the submitter waits for.
      captioned: rows of its captions file.
      failures: rows of its failures file.
      thumbnails: small pictures for the review page.
      image_bytes: size of each file that was fetched.
      batch_fill: of each batch that begins with one of its images, in percent.
      is_second_attempt: whether its images are being loaded for the second time.
      copies: images with the captions of another one.
    """

    def __init__(self, number: int, shard: Shard, sampler: ThumbnailSampler = NO_THUMBNAILS) -> None:
        self.number = number
        self.shard = shard
        self.done: Future[ShardResult] = Future()
        self.captioned: list[CaptionedImage] = []
        self.failures: list[Failure] = []
        self.thumbnails = ShardThumbnails(sampler, number)
        self.image_bytes: list[int] = []
        self.batch_fill: list[int] = []
        self.is_second_attempt = False
        self.copies = 0
        self._seconds: dict[str, float] = {}

    @property
    def images(self) -> Sequence[ImageInput]:
        """The shard's inputs."""
        return self.shard.images

    def columns_of(self, uri: str) -> Mapping[str, Any]:
        """The carried columns of an image."""
        return self.shard.columns_of(uri)

    def offer(self, image: DecodedImage, row: CaptionedImage) -> None:
        """Shows an image that has a caption to those that pick thumbnails."""
        self.thumbnails.offer(image, row)

    def count_seconds(self, stage: str, seconds: float) -> None:
        """Adds to the time of a stage."""
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    def count_load(self, event: LoadEvent) -> None:
        """Adds what loading an image took."""
        self.count_seconds("fetch", event.fetch_seconds)
        if event.file_bytes is not None:
            self.count_seconds("decode", event.decode_seconds)
            self.image_bytes.append(event.file_bytes)

    def count_copy(self) -> None:
        """Counts an image that has the captions of another one with the same content."""
        self.copies += 1

    def add(self, outcome: CaptionedImage | Failure) -> bool:
        """Adds an image's row; returns whether it was the last one."""
        if isinstance(outcome, Failure):
            self.failures.append(outcome)
        else:
            self.captioned.append(outcome)
        return len(self.captioned) + len(self.failures) == len(self.shard.images)

    @property
    def is_unread(self) -> bool:
        """Whether not one of its images could be read, for reasons that lie in the storage."""
        return not self.captioned and all(
            failure.stage == "fetch" and failure.retry_when != OPTIONS for failure in self.failures
        )

    def start_again(self) -> None:
        """Drops the failures of an unread shard, whose images are loaded a second time."""
        self.failures.clear()
        self.is_second_attempt = True

    def commit(self, run: Run, model_version: str, config: JobConfig) -> ShardReport:
        """Writes the shard's files, rows in the plan's order."""
        started = time.monotonic()
        for rows in (self.captioned, self.failures):
            rows.sort(key=lambda row: self.shard.place[row.uri])
        carried = self.shard.carried_by(row.uri for row in self.captioned)
        several = config.decoding.num_captions > 1
        captions = caption_table(
            self.captioned, model_version, several, carried, config.min_score, config.prompts, config.image_columns
        )
        report = commit_shard(run, self.number, captions, self.failures, self.shard, self._work, self.copies)
        if report.failures == tuple(self.failures):  # else another attempt was first, and other images have captions
            self.thumbnails.write(run, self.number, self.captioned)
        self.count_seconds("write", time.monotonic() - started)
        return report

    @property
    def _work(self) -> dict[str, int]:
        """What the shard took until now, for its own file."""
        return shard_work(self._seconds, self.image_bytes, self.batch_fill)

    def result(
        self, report: ShardReport, model_seconds: Mapping[str, float], counts: Mapping[str, int] | None = None
    ) -> ShardResult:
        """The committed report, and what the shard took."""
        return ShardResult(report, dict(self._seconds), model_seconds, self.image_bytes, self.batch_fill, counts or {})
