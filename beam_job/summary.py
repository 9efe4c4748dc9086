"""What a run came to: read back from what it wrote, so that it cannot claim more."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from beam_job.config import JobConfig
from beam_job.prepare import Prepared
from beam_job.sink import read_counts


@dataclass(frozen=True)
class Summary:
    """`summary.json`.

    Attributes:
      run_id: of the run.
      inputs: distinct URIs that the run had to do.
      skipped: distinct URIs that were listed and had been done before.
      captions: rows of `captions/`.
      failures: rows of `failures/`.
      failures_by_reason: rows by "stage: error type".
      seconds: wall time, from the listing to the last shard; of a continued run, of its last attempt.
      images_per_second: captions and failures, by `seconds`.
      seconds_by_stage: "fetch", "decode", "caption", "write", summed over threads and workers, and "wait", the
        model's time without an image to work on.
      model: version of the model.
      options: of the job.
    """

    run_id: str
    inputs: int
    skipped: int
    captions: int
    failures: int
    failures_by_reason: Mapping[str, int]
    seconds: float
    images_per_second: float
    seconds_by_stage: Mapping[str, float]
    model: str
    options: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.captions + self.failures != self.inputs:
            raise RowCountError(
                f"run {self.run_id} has {self.inputs:,} inputs but {self.captions:,} captions and "
                f"{self.failures:,} failures; this is a defect of the job, please report it"
            )

    @property
    def failure_ratio(self) -> float:
        """Failures by inputs."""
        return self.failures / self.inputs

    def to_json(self) -> bytes:
        """The file's content."""
        return (json.dumps(dataclasses.asdict(self), indent=2) + "\n").encode()


class RowCountError(RuntimeError):
    """The rows written are not the rows planned."""


def summarize(
    config: JobConfig,
    prepared: Prepared,
    seconds: float,
    seconds_by_stage: Mapping[str, float],
    model_version: str,
) -> Summary:
    """Counts the rows of all committed shards.

    Raises:
      RowCountError: captions and failures do not add up to the inputs.
    """
    run, plan = prepared.run, prepared.plan
    captions, reasons = 0, Counter[str]()
    for captioned, failed in read_counts(run, range(plan.shards)):
        captions += captioned
        reasons.update(failed)
    return Summary(
        run_id=run.run_id,
        inputs=plan.inputs,
        skipped=prepared.skipped,
        captions=captions,
        failures=reasons.total(),
        failures_by_reason=dict(reasons),
        seconds=round(seconds, 3),
        images_per_second=round(plan.inputs / seconds, 2),
        seconds_by_stage={stage: round(spent, 3) for stage, spent in sorted(seconds_by_stage.items())},
        model=model_version,
        options=config.options,
    )
