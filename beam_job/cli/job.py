"""Runs the job from its options to its summary: list, plan, caption, summarize."""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Callable, Sequence

from apache_beam.options.pipeline_options import PipelineOptions

from beam_job.captioning.captioners import check_captioner, model_version
from beam_job.captioning.contents import remove_contents
from beam_job.cli.graph import EXPLAINED_ERRORS
from beam_job.cli.logs import LOGGER
from beam_job.cli.options import option_names
from beam_job.cli.run_pipeline import ExplainedJobError, quiet, run_pipeline, stop_work_on_signal
from beam_job.config import JobConfig
from beam_job.output.conclude import conclude
from beam_job.output.metrics import RunMetrics
from beam_job.output.summary import Summary
from beam_job.planning.lease import Lease, LeaseLostError, lease
from beam_job.planning.listed_inputs import list_inputs
from beam_job.planning.new_images import format_skipped
from beam_job.planning.prepare import PlannedRun, find_resumable_run, plan_run, record_choice
from beam_job.results.corrections import apply_corrections, corrections_files
from beam_job.results.latest_rows import read_latest_rows
from beam_job.runners.beam_options import RunnerError, beam_options, runs_here
from beam_job.runners.dataflow_job import options_of_run
from beam_job.runners.preflight import check_reachable, log_estimate, log_workers
from beam_job.storage import StorageError, use_access
from beam_job.text import command_name, counted, printable
from model.devices import NoGpuError, open_gpus
from model.engine_choice import check_engine


def run_job(config: JobConfig, beam_arguments: Sequence[str] = ()) -> Summary | None:
    """Captions the images of `config.inputs` that earlier runs have not captioned.

    A run that was interrupted is resumed first: it captions what it had planned. If the summary says so (`resumed`),
    another call captions the images that were added since that run began.

    Args:
      config: the job.
      beam_arguments: arguments for Beam's PipelineOptions.

    Returns:
      the summary, as in `summary.json`; `_SUCCESS` exists unless too many images failed. None if there was nothing to
      do, with `config.estimate`, and if the job runs on Dataflow without waiting for its end.

    Raises:
      InputError, BundleError, CaptionerError, RunnerError, NoGpuError, EngineError, PreflightError, StorageError: wrong
        usage, before anything was written.
      LeaseError: another run writes to the same output.
      JobError: the pipeline failed; committed shards are kept.
      Stopped: a signal stopped the run; committed shards are kept.
    """
    started = time.monotonic()
    use_access(config.access)
    options = beam_options(config, beam_arguments, option_names())
    if not runs_here(options):
        config = config.with_absolute_paths()
    version = _model_version(config)
    if config.estimate:
        _check_captioner(config)
        log_estimate(config, beam_arguments, version, lambda: quiet(config, *EXPLAINED_ERRORS))
        return None
    _check_before_listing(config, options)
    check_reachable(config, beam_arguments)
    plan = _resume_or_list(config, version)  # before the lease: wrong usage writes nothing
    if plan is None:
        LOGGER.info(f"nothing to do, model {printable(version)}")
        return None
    with lease(config.output) as held:
        planned = _plan(config, plan, version, held)
        if not planned.plan.inputs:
            return None
        log_workers(config, beam_arguments, planned)
        options = options_of_run(options, planned.run.run_id)
        with stop_work_on_signal(options, planned):
            metrics = run_pipeline(config, options, planned, version, held)
        if metrics is None:
            return None
        return _conclude(config, planned, time.monotonic() - started, metrics, version, held)


def _check_before_listing(config: JobConfig, options: PipelineOptions) -> None:
    """Raises for a captioner, an engine, a GPU or a budget that the run could not use."""
    if runs_here(options):
        _check_captioner(config)
        check_engine(config.engine)
        if config.require_gpu and not config.is_named:  # a named captioner looks for a GPU of its own kind
            _require_gpu(config)
    elif config.endpoint is not None and config.endpoint.max_tokens_total is not None:
        raise RunnerError("--max_tokens_total works only for runs on this machine; leave it out with other runners")


def _plan(config: JobConfig, plan: Callable[[Lease], PlannedRun], version: str, held: Lease) -> PlannedRun:
    """Plans the run and logs its plan; of a run without images, what has to be recorded is recorded here."""
    try:
        planned = plan(held)
    except LeaseLostError as error:
        raise ExplainedJobError(f"the run was not planned: {error}") from error
    _log_plan(planned, version)
    _log_min_score(config, planned)
    if planned.choice:
        conclude(dataclasses.replace(config, no_report=True), planned, 0.0, RunMetrics(), version)
        record_choice(planned)
    return planned


def _conclude(
    config: JobConfig, planned: PlannedRun, seconds: float, metrics: RunMetrics, version: str, held: Lease
) -> Summary:
    run_id = planned.run.run_id
    try:
        held.verify()
        summary = conclude(config, planned, seconds, metrics, version)
        remove_contents(run_id)
        _log_outdated_corrections(config.output, run_id)
        return summary
    except LeaseLostError as error:
        raise ExplainedJobError(f"run {run_id} has no summary: {error}") from error
    except StorageError as error:
        raise ExplainedJobError(
            f"run {run_id} has no summary: {error}; fix that, then repeat the command to resume"
        ) from error


def _log_outdated_corrections(output: str, run_id: str) -> None:
    """Says how many corrections the run has made useless; without corrections nothing is read."""
    try:
        if not corrections_files(output):
            return
        latest = read_latest_rows(output)
        outdated = len(latest.uris_of(run_id).intersection(apply_corrections(output, latest).outdated))
    except StorageError as error:
        LOGGER.warning(f"cannot check whether corrections still apply: {error}")
        return
    if outdated:
        LOGGER.warning(
            f"corrections of {counted(outdated, 'image')} no longer apply, since their content has changed; "
            f"`{command_name()} status --output={shlex.quote(output)}` lists them"
        )


def _model_version(config: JobConfig) -> str:
    """The captioner's version. A module of the user's may print anything while it is imported."""
    with quiet(config, *EXPLAINED_ERRORS):
        return model_version(config)


def _check_captioner(config: JobConfig) -> None:
    with quiet(config, *EXPLAINED_ERRORS):
        check_captioner(config)


def _require_gpu(config: JobConfig) -> None:
    """Raises NoGpuError outside of `quiet_stderr`, which would show all that TensorFlow printed."""
    missing = None
    with quiet(config):
        try:
            open_gpus(required=True)
        except NoGpuError as error:
            missing = error
    if missing:
        raise missing


def _log_plan(planned: PlannedRun, model_version: str) -> None:
    model = f"model {printable(model_version)}"
    skipped = format_skipped(planned.skipped, planned.failed)
    counts = {"skipped": planned.skipped, "failed_before": planned.failed, "retried": planned.retried}
    if not planned.plan.inputs:
        line = ", ".join(filter(None, [f"nothing to do{': ' if skipped else ''}{skipped}", model]))
        LOGGER.info(line, extra={"fields": {"inputs": 0, **counts}})
        return
    size = f"{counted(planned.plan.inputs, 'image')} in {counted(planned.plan.shards, 'shard')}"
    retried = f"{planned.retried:,} of them retried after a failure" if planned.retried else ""
    run = f"{'resuming ' if planned.resumed else ''}run {planned.run.run_id}"
    line = ", ".join(filter(None, [size, retried, skipped and f"{skipped}, skipped", run, model]))
    LOGGER.info(line, extra={"fields": {"inputs": planned.plan.inputs, **counts}})


def _log_min_score(config: JobConfig, planned: PlannedRun) -> None:
    if config.min_score is not None and planned.skipped:
        LOGGER.info(
            f"--min_score={config.min_score} flags new captions only; to flag all: {command_name()} snapshot "
            f"--output={shlex.quote(config.output)} --to=DIR --min_score={config.min_score}"
        )


def _resume_or_list(config: JobConfig, model_version: str) -> Callable[[Lease], PlannedRun] | None:
    """Looks for an interrupted run, or else lists the images; returns what makes the plan under the lease.

    None if the inputs hold no images, which the log says.
    """
    if resumable := find_resumable_run(config, model_version):
        planned = -(-resumable.plan.inputs // config.shard_size)
        if planned != resumable.plan.shards:
            LOGGER.info(
                f"--shard_size={config.shard_size} is ignored: the resumed run was planned with "
                f"{counted(resumable.plan.shards, 'shard')}"
            )
        return lambda _: resumable
    listing = list_inputs(config)
    if not listing.held:
        return None
    return lambda held: plan_run(config, model_version, listing, held.verify)
