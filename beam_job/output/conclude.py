"""The end of a run: its summary, its review page and its success marker."""

from __future__ import annotations

import dataclasses

from beam_job.config import JobConfig
from beam_job.output.metrics import RunMetrics
from beam_job.output.run_page import write_page
from beam_job.output.summary import Summary, summarize
from beam_job.planning.prepare import PlannedRun


def conclude(
    config: JobConfig, prepared: PlannedRun, seconds: float, metrics: RunMetrics, model_version: str
) -> Summary:
    """Writes the review page, `summary.json`, and the success marker unless too many images failed.

    The arguments are those of `summarize`. A repeated call writes the same files but for the times.

    Raises:
      RowCountError: see `summarize`.
      StorageError: the output cannot be read or written.
    """
    run, summary = prepared.run, summarize(config, prepared, seconds, metrics, model_version)
    if not config.no_report:
        page = write_page(run, summary)
        summary = dataclasses.replace(summary, page=page)
    run.storage.write(run.summary, summary.to_json())  # after the page: the run has ended where this file exists
    if summary.failure_ratio <= config.max_failure_ratio:
        run.storage.write(run.success, b"")
    return summary
