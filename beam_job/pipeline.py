"""The whole graph."""

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
    """A run whose end no launching process waits for, as of a template: its graph sums it up itself.

    Its summary has no seconds by stage, bytes and batch fill: metrics are with the runner, which shows them.

    Attributes:
      prepared: the run.
      model_version: of the captioner.
      started: of the launching process, in seconds since 1970.
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
) -> None:
    """Shard numbers, dealt out to the workers, each captioned and committed where it lands.

    Only numbers cross the stage boundary: a worker reads its shard's URIs from the stored plan, and image bytes,
    pixels and features live and die inside one DoFn.
    """
    done = (
        pipeline
        | "ShardNumbers" >> beam.Create(range(plan.shards))
        | "DealOut" >> beam.Reshuffle()
        | "CaptionShards" >> beam.ParDo(CaptionShards(config, run, progress_folder))
    )
    if unattended:
        # A side input is whole before its reader begins; this one is empty, and tells the end of all shards.
        (
            pipeline
            | "Once" >> beam.Create([unattended])
            | "Conclude" >> beam.Map(_conclude, config, beam.pvalue.AsIter(done))
        )


def _conclude(unattended: Unattended, config: JobConfig, done: Iterable[None]) -> None:
    """Fails the job, where the command would exit with 1, so that whoever watches the job hears of it."""
    seconds = time.time() - unattended.started
    summary = conclude(config, unattended.prepared, seconds, RunMetrics(), unattended.model_version)
    if summary.failure_ratio > config.max_failure_ratio:
        raise FailureBudgetError(
            f"{summary.failure_ratio:.0%} of the images failed, more than "
            f"--max_failure_ratio={config.max_failure_ratio}; the run is done all the same, see "
            f"{unattended.prepared.run.summary}"
        )
