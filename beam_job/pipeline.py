"""The complete Beam graph of a run."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import apache_beam as beam

from beam_job.captioning.budgets import FailureBudgetError
from beam_job.captioning.caption_shards import CaptionShards
from beam_job.config import JobConfig
from beam_job.output.conclude import conclude
from beam_job.output.metrics import RunMetrics
from beam_job.planning.plan import Plan
from beam_job.planning.prepare import PlannedRun
from beam_job.planning.run import Run


@dataclass(frozen=True)
class Unattended:
    """A run that no launching process waits for, such as that of a template: its graph writes the summary itself.

    That summary has no seconds by stage, bytes and batch fill: the runner has these metrics, and shows them.

    Attributes:
      prepared: the planned run.
      model_version: version of the captioner.
      started: when the launching process started, in seconds since 1970.
    """

    prepared: PlannedRun
    model_version: str
    started: float


def build_pipeline(
    pipeline: beam.Pipeline,
    config: JobConfig,
    run: Run,
    plan: Plan,
    progress_folder: str | None,
    unattended: Unattended | None = None,
    keep_model: bool = False,
) -> None:
    """Builds the graph: shard numbers are distributed to the workers, which caption and commit one shard each.

    Only numbers cross the stage boundary: a worker reads its shard's URIs from the stored plan, and image bytes and
    pixels never leave the DoFn.

    Args:
      pipeline: to which the transforms are applied.
      config: the job's.
      run: the run whose shards are captioned.
      plan: the size of its plan.
      progress_folder: where workers on this machine write their progress, or None.
      unattended: given if the graph has to write the summary itself.
      keep_model: see `CaptionShards`.
    """
    done = (
        pipeline
        | "ShardNumbers" >> beam.Create(range(plan.shards))
        | "DealOut" >> beam.Reshuffle()
        | "CaptionShards" >> beam.ParDo(CaptionShards(config, run, progress_folder, keep_model))
    )
    if unattended:
        # A side input is complete before its consumer starts; this one is empty, and marks the end of all shards.
        (
            pipeline
            | "Once" >> beam.Create([unattended])
            | "Conclude" >> beam.Map(_conclude, config, beam.pvalue.AsIter(done))
        )


def _conclude(unattended: Unattended, config: JobConfig, done: Iterable[None]) -> None:
    """Writes the summary; fails the job if too many images failed, as the command would by its exit code."""
    seconds = time.time() - unattended.started
    summary = conclude(config, unattended.prepared, seconds, RunMetrics(), unattended.model_version)
    if summary.failure_ratio > config.max_failure_ratio:
        raise FailureBudgetError(
            f"{summary.failure_ratio:.0%} of the images failed, more than "
            f"--max_failure_ratio={config.max_failure_ratio}; the run is complete, see "
            f"{unattended.prepared.run.summary}"
        )
