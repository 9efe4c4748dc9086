"""The summary of a run, read back from the files that it wrote, so that it cannot claim more."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from beam_job.config import JobConfig
from beam_job.inputs.filters import UNREADABLE_FOLDER
from beam_job.output.metrics import RanWith, RunMetrics
from beam_job.output.shard_report import ShardCounts
from beam_job.output.sink import read_counts
from beam_job.output.stage_clock import WAITED_FOR
from beam_job.planning.damage import FORMAT
from beam_job.planning.prepare import PlannedRun
from beam_job.planning.recorded_config import public_options
from beam_job.records import RUN_ENDED
from beam_job.storage import public_name

_LONGEST = 300  # characters of a reason


@dataclass(frozen=True)
class Summary:
    """`summary.json`.

    Attributes:
      run_id: the run's name.
      inputs: distinct URIs that the run had to caption.
      skipped: distinct URIs that were listed and already done.
      captions: rows of `captions/`.
      low_confidence: captions with a score below --min_score; None without that option.
      failures: rows of `failures/`.
      failures_by_reason: rows by "stage: error type".
      seconds: wall time from the listing to the last shard; of a resumed run, of its last attempt.
      images_per_second: captions and failures of the last attempt, divided by `seconds`; None where not known.
      seconds_by_stage: "fetch", "decode", "caption", "write", summed over threads and workers.
      wait_seconds: time that the model's threads waited, by what they waited for ("fetch", "decode" or "write", see
        `StageClock`), summed over workers.
      model_share: captioning by captioning and waiting, from the first image to the last file; None where no image came
        to the model. Start-up is not included.
      bytes_fetched: bytes of the images, as stored.
      batch_fill: images in a batch by its capacity, on average; None where no image came to the model.
      scores: captions by score, in steps of 0.1 named by their lower end.
      words: captions by number of words.
      model: version of the model.
      ran_with: what its shards were captioned with; of a resumed run, those of its last attempt.
      options: the job's.
      counts: what the captioner has counted in this attempt, by name, such as requests and tokens.
      copies: images with the captions, or the captioner's failure, of another one with the same content; None without
        --dedupe=content.
      left: of the failures, those that the captioner has left for the next run (`model.EndRun`).
      bad_files: of the failures, those of files that are no images (`retry_when` is "content").
      retried: of the inputs, those that earlier runs failed to caption; of a resumed run 0.
      resumed: whether an earlier call began the run; images added since then are not among its inputs.
      page: the review page; None where it was not requested or could not be written.
      format: `beam_job.planning.damage.FORMAT` of the version that wrote it.
    """

    run_id: str
    inputs: int
    skipped: int
    captions: int
    low_confidence: int | None
    failures: int
    failures_by_reason: Mapping[str, int]
    seconds: float
    images_per_second: float | None
    seconds_by_stage: Mapping[str, float]
    wait_seconds: Mapping[str, float]
    model_share: float | None
    bytes_fetched: int
    batch_fill: float | None
    scores: Mapping[str, int]
    words: Mapping[str, int]
    model: str
    ran_with: Sequence[RanWith]
    options: Mapping[str, Any]
    counts: Mapping[str, int] = field(default_factory=dict)
    copies: int | None = None
    left: int = 0
    bad_files: int = 0
    retried: int = 0
    resumed: bool = False
    page: str | None = None
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.captions + self.failures != self.inputs:
            raise RowCountError(
                f"run {self.run_id} has {self.inputs:,} inputs but {self.captions:,} captions and "
                f"{self.failures:,} failures; this is a bug, please report it"
            )

    @property
    def failure_ratio(self) -> float:
        """The share of images that failed, of all that were listed or of those that are new, whichever is larger.

        Of the new ones bad files do not count: one among many images must not fail the night on which nothing else is
        new. Images that are left for the next run are neither inputs nor failures. Nor are folders that may not be
        read, as long as there is another image that is or was captioned.
        """
        others = self.left
        if self.captions or self.skipped:
            others += self.failures_by_reason.get(f"list: {UNREADABLE_FOLDER}", 0)
        tried = self.inputs - others
        if not tried:
            return 0.0
        failed = self.failures - others
        return max(failed / (tried + self.skipped), (failed - self.bad_files - self.retried) / tried)

    def to_json(self) -> bytes:
        """The file's content."""
        return (json.dumps(dataclasses.asdict(self), indent=2) + "\n").encode()


def format_failure(uri: str, message: str) -> str:
    """A failure as an example: the input, and the beginning of the reason."""
    name = public_name(uri)
    return message[:_LONGEST] if message.startswith(name) else f"{name}: {message[:_LONGEST]}"


class RowCountError(RuntimeError):
    """The number of rows written is not the number planned."""


def summarize(
    config: JobConfig,
    prepared: PlannedRun,
    seconds: float,
    metrics: RunMetrics,
    model_version: str,
) -> Summary:
    """Counts the rows of all committed shards.

    Args:
      config: the job's.
      prepared: the job's run.
      seconds: wall time of this attempt.
      metrics: of the pipeline.
      model_version: the captioner's.

    Raises:
      RowCountError: captions and failures do not add up to the inputs.
      StorageError: a shard's file cannot be read or is damaged.
    """
    counted = sum(read_counts(prepared.run, range(prepared.plan.shards)), ShardCounts())
    return Summary(
        run_id=prepared.run.run_id,
        inputs=prepared.plan.inputs,
        skipped=prepared.skipped,
        captions=counted.captions,
        low_confidence=None if config.min_score is None else counted.low_confidence,
        failures=counted.failures.total(),
        failures_by_reason=dict(counted.failures),
        seconds=round(seconds, 3),
        images_per_second=_rate(prepared, metrics, seconds),
        bytes_fetched=metrics.bytes_fetched,
        batch_fill=None if metrics.batch_fill is None else round(metrics.batch_fill, 3),
        scores={f"{step / 10:.1f}": count for step, count in sorted(counted.scores.items())},
        words={str(number): count for number, count in sorted(counted.words.items())},
        model=model_version,
        ran_with=metrics.ran_with,
        options=public_options(config),
        counts=dict(metrics.counts),
        copies=counted.copies if config.dedupe else None,
        left=counted.failures[f"caption: {RUN_ENDED}"],
        bad_files=counted.bad_files,
        retried=prepared.retried,
        resumed=prepared.resumed,
        **_times(metrics.seconds_by_stage),
    )


def _times(seconds_by_stage: Mapping[str, float]) -> dict[str, Any]:
    """The summary's fields about time: by stage, what the model waited for, and its share."""
    waited = {stage: seconds_by_stage.get(f"model_{stage}", 0.0) for stage in WAITED_FOR}
    captioning = seconds_by_stage.get("model_model", 0.0)  # simultaneous batches count once, unlike in "caption"
    total = captioning + sum(waited.values())
    work = {stage: spent for stage, spent in sorted(seconds_by_stage.items()) if not stage.startswith("model_")}
    return {
        "seconds_by_stage": {stage: round(spent, 3) for stage, spent in work.items()},
        "wait_seconds": {stage: round(spent, 3) for stage, spent in waited.items()},
        "model_share": round(captioning / total, 3) if total else None,
    }


def _rate(prepared: PlannedRun, metrics: RunMetrics, seconds: float) -> float | None:
    """Images a second of this attempt: of a resumed run, earlier attempts did the others."""
    images = metrics.images if prepared.resumed else prepared.plan.inputs
    return round(images / seconds, 2) if images and seconds > 0 else None
