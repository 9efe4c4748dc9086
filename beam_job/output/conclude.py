"""The end of a run: its summary, its review page and its success marker."""

from __future__ import annotations

from beam_job.config import JobConfig
from beam_job.output.metrics import Measured
from beam_job.output.page import write_page
from beam_job.output.summary import Summary, summarize
from beam_job.planning.prepare import PlannedRun


def conclude(
    config: JobConfig, prepared: PlannedRun, seconds: float, measured: Measured, model_version: str
) -> Summary:
    """Sums a run up, and writes that down: `summary.json`, and the mark of success unless too many images failed.

    Takes what `summarize` takes. Done again, it writes the same but for the times.

    Raises:
      RowCountError: as `summarize`.
      StorageError: the output cannot be read or written.
    """
    run, summary = prepared.run, summarize(config, prepared, seconds, measured, model_version)
    run.storage.write(run.summary, summary.to_json())
    if not config.no_report:
        write_page(run, prepared.plan.shards, summary, config.report_samples)
    if summary.failure_ratio <= config.max_failure_ratio:
        run.storage.write(run.success, b"")
    return summary
