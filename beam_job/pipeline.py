"""The whole graph."""

from __future__ import annotations

import apache_beam as beam

from beam_job.caption_shards import CaptionShards
from beam_job.config import JobConfig
from beam_job.plan import Plan
from beam_job.run import Run


def build_pipeline(
    pipeline: beam.Pipeline, config: JobConfig, run: Run, plan: Plan, progress_folder: str | None
) -> None:
    """Shard numbers, dealt out to the workers, each captioned and committed where it lands.

    Only numbers cross the stage boundary: a worker reads its shard's URIs from the stored plan, and image bytes,
    pixels and features live and die inside one DoFn.
    """
    (
        pipeline
        | "ShardNumbers" >> beam.Create(range(plan.shards))
        | "DealOut" >> beam.Reshuffle()
        | "CaptionShards" >> beam.ParDo(CaptionShards(config, run, progress_folder))
    )
