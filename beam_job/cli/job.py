"""A run from its options to its summary: list, plan, caption, sum up."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shlex
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TextIO

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineResult

from beam_job.captioning.captioners import check_captioner, model_version
from beam_job.captioning.contents import remove_contents
from beam_job.captioning.engines import ENGINES
from beam_job.cli.graph import EXPLAINED_ERRORS, root_cause, run_graph
from beam_job.cli.logs import LOGGER, is_logged_here
from beam_job.cli.options import option_names
from beam_job.cli.progress import NOTHING, Counts, ProgressPrinter
from beam_job.cli.progress_folder import progress_folder
from beam_job.cli.quiet import quiet_stderr
from beam_job.cli.shard_progress import count_shards
from beam_job.cli.signals import Stopped, child_processes, end_workers
from beam_job.config import JobConfig
from beam_job.output.conclude import conclude
from beam_job.output.metrics import RunMetrics, read_metrics, read_shard_metrics
from beam_job.output.sink import committed_shards, read_counts
from beam_job.output.summary import Summary
from beam_job.pipeline import Unattended, build_pipeline
from beam_job.planning.lease import Lease, LeaseLostError, lease
from beam_job.planning.prepare import (
    PlannedRun,
    find_resumable_run,
    format_skipped,
    list_inputs,
    plan_run,
    record_choice,
)
from beam_job.planning.run import Run
from beam_job.results.corrections import apply_corrections, corrections_files
from beam_job.results.latest_rows import read_latest_rows
from beam_job.runners.beam_options import RunnerError, beam_options, runs_here
from beam_job.runners.dask_cluster import is_local_cluster, local_cluster, partition, runs_on_dask
from beam_job.runners.dataflow_job import (
    format_submitted,
    is_awaited,
    job_page,
    log_job_states,
    options_of_run,
    runs_on_dataflow,
)
from beam_job.runners.preflight import check_reachable, log_estimate, log_workers
from beam_job.runners.worker_watch import WorkerDiedError
from beam_job.storage import StorageError, use_access
from beam_job.text import command_name, counted, printable
from model.devices import NoGpuError, open_gpus
from model.engine_choice import check_engine

_LAST_BATCH_S = 5.0  # for the batch under way when a signal comes


class JobError(RuntimeError):
    """The run failed after it had begun; the message gives the reason as far as it is known."""


class ExplainedJobError(JobError):
    """The run failed for a reason that the message gives in full: no space, no credentials, too many failures."""


def run_job(config: JobConfig, beam_arguments: Sequence[str] = ()) -> Summary | None:
    """Captions the images of `config.inputs` that earlier runs have not captioned.

    Args:
      config: the job.
      beam_arguments: for Beam's PipelineOptions.

    Returns:
      the summary, as in `summary.json`; `_SUCCESS` exists unless too many images failed. None if there was nothing to
      do, with `config.estimate`, and if Dataflow's job is not waited for.

    Raises:
      InputError, BundleError, CaptionerError, RunnerError, NoGpuError, EngineError, PreflightError, StorageError: wrong
        usage, before anything was written.
      LeaseError: another run writes to the same output.
      JobError: the pipeline failed; committed shards remain.
      Stopped: a signal came; committed shards remain.
    """
    started = time.monotonic()
    use_access(config.access)
    options = beam_options(config, beam_arguments, option_names())
    if not runs_here(options):
        config = config.with_absolute_paths()
    version = _model_version(config)
    if config.estimate:
        _check_captioner(config)
        log_estimate(config, beam_arguments, version, lambda: _quiet(config, *EXPLAINED_ERRORS))
        return None
    _check_before_listing(config, options)
    check_reachable(config, beam_arguments)
    plan = _resume_or_list(config, version)  # before the lease: wrong usage writes nothing
    if plan is None:
        LOGGER.info(f"nothing to do, model {printable(version)}")
        return None
    with lease(config.output) as held:
        try:
            planned = plan(held)
        except LeaseLostError as error:
            raise ExplainedJobError(f"the run was not planned: {error}") from error
        _log_plan(planned, version)
        _log_min_score(config, planned)
        if planned.choice:
            conclude(dataclasses.replace(config, no_report=True), planned, 0.0, RunMetrics(), version)
            record_choice(planned)
        if not planned.plan.inputs:
            return None
        log_workers(config, beam_arguments, planned)
        options = options_of_run(options, planned.run.run_id)
        with _stop_work_on_signal(options, planned):
            metrics = _run_pipeline(config, options, planned, version, held)
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
        raise RunnerError("--max_tokens_total is counted by the processes of this machine; leave it out elsewhere")


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
        LOGGER.warning(f"whether corrections still apply is unknown: {error}")
        return
    if outdated:
        LOGGER.warning(
            f"corrections of {counted(outdated, 'image')} no longer apply, since their content has changed; "
            f"`{command_name()} status --output={shlex.quote(output)}` lists them"
        )


def _model_version(config: JobConfig) -> str:
    """The captioner's version. A module of the user's may print anything while it is imported."""
    with _quiet(config, *EXPLAINED_ERRORS):
        return model_version(config)


def _check_captioner(config: JobConfig) -> None:
    with _quiet(config, *EXPLAINED_ERRORS):
        check_captioner(config)


def _require_gpu(config: JobConfig) -> None:
    """Raises NoGpuError outside of `quiet_stderr`, which would show all that TensorFlow printed."""
    missing = None
    with _quiet(config):
        try:
            open_gpus(required=True)
        except NoGpuError as error:
            missing = error
    if missing:
        raise missing


def _quiet(config: JobConfig, *explained: type[BaseException]) -> contextlib.AbstractContextManager[TextIO]:
    """`quiet_stderr` in the command; the stderr of another program that calls `run_job` is left alone."""
    return quiet_stderr(config.verbose or not is_logged_here(), explained)


def _log_plan(planned: PlannedRun, model_version: str) -> None:
    model = f"model {printable(model_version)}"
    skipped = format_skipped(planned.skipped, planned.failed)
    counts = {"skipped": planned.skipped, "failed_before": planned.failed, "retried": planned.retried}
    if not planned.plan.inputs:
        line = ", ".join(filter(None, [f"nothing to do{': ' if skipped else ''}{skipped}", model]))
        LOGGER.info(line, extra={"fields": {"inputs": 0, **counts}})
        return
    size = f"{counted(planned.plan.inputs, 'image')} in {counted(planned.plan.shards, 'shard')}"
    retried = f"{planned.retried:,} of them after a failure" if planned.retried else ""
    run = f"{'resuming ' if planned.resumed else ''}run {planned.run.run_id}"
    line = ", ".join(filter(None, [size, retried, skipped and f"{skipped}, skipped", run, model]))
    LOGGER.info(line, extra={"fields": {"inputs": planned.plan.inputs, **counts}})


def _log_min_score(config: JobConfig, planned: PlannedRun) -> None:
    if config.min_score is not None and planned.skipped:
        LOGGER.info(
            f"--min_score={config.min_score} marks new captions; to mark all: {command_name()} snapshot "
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


def _run_pipeline(
    config: JobConfig, options: PipelineOptions, planned: PlannedRun, version: str, held: Lease
) -> RunMetrics | None:
    """Runs the graph to its end and returns its metrics; None if its end is not waited for."""
    on_dask = runs_on_dask(options)
    others = child_processes()
    if on_dask:
        partition(options, planned.plan.shards)
    unattended = None if is_awaited(options) else Unattended(planned, version, time.time())

    def build(pipeline: beam.Pipeline) -> None:
        workers_folder = None if on_dask else folder
        build_pipeline(pipeline, config, planned.run, planned.plan, workers_folder, unattended, keep_model=on_dask)

    with _show_progress(config, options, planned) as folder:
        try:
            result = run_graph(options, build, planned, held)
        except LeaseLostError as error:
            _abandon_workers(config.verbose, others)
            raise ExplainedJobError(f"run {planned.run.run_id} was stopped: {error}") from error
        except WorkerDiedError as error:
            _abandon_workers(config.verbose, others)
            raise ExplainedJobError(_failed(planned, str(error))) from error
        except Exception as error:
            reason, explained = root_cause(error, options)
            raise (ExplainedJobError if explained else JobError)(_failed(planned, reason)) from error
    if unattended:
        LOGGER.info(format_submitted(options, result, planned.run.run_id))
        return None
    return read_shard_metrics(planned.run) if on_dask else _read_metrics(result)


def _abandon_workers(verbose: bool, others: Collection[int]) -> None:
    """Kills the workers. Beam's threads may notice that after stderr is back, and would log tracebacks to it."""
    if is_logged_here() and not verbose:
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    end_workers(others)


def _failed(planned: PlannedRun, reason: str) -> str:
    return f"run {planned.run.run_id} failed: {reason}; fix that, then repeat the command to resume"


@contextlib.contextmanager
def _stop_work_on_signal(options: PipelineOptions, planned: PlannedRun) -> Iterator[None]:
    """When a signal ends this block: stops the work, and notes how many shards are written."""
    others = child_processes()
    is_elsewhere = not (runs_here(options) or is_local_cluster(options))  # before that cluster gets an address
    try:
        yield
    except Stopped as stopped:
        ENGINES.stop(_LAST_BATCH_S)
        end_workers(others)
        written = len(committed_shards(planned.run))
        stopped.state = f"{written:,} of {counted(planned.plan.shards, 'shard')} are written"
        if runs_on_dataflow(options):
            stopped.state += f", and Dataflow's job may still be running ({job_page(options)})"
        elif is_elsewhere:
            stopped.state += ", and workers elsewhere may still be running"
        raise


@contextlib.contextmanager
def _show_progress(config: JobConfig, options: PipelineOptions, planned: PlannedRun) -> Iterator[str | None]:
    """Yields the folder for the workers' progress files while their sum is shown; None for workers elsewhere."""
    if runs_on_dataflow(options):
        with _quiet(config, ExplainedJobError), log_job_states(options):
            yield None
    elif runs_on_dask(options):
        others = child_processes()
        with (
            progress_folder() as folder,
            _quiet(config, ExplainedJobError) as terminal,
            local_cluster(config, options),
            ProgressPrinter(folder, planned.plan.inputs, terminal),
            count_shards(planned.run, folder),
        ):
            try:
                yield folder
            except BaseException:
                end_workers(others)  # a cluster would wait for what they are doing
                raise
    elif not runs_here(options):
        yield None
    else:
        before = _count_committed(planned.run) if planned.resumed else NOTHING
        with (
            progress_folder() as folder,
            _quiet(config, ExplainedJobError) as terminal,
            ProgressPrinter(folder, planned.plan.inputs, terminal, before),
        ):
            yield folder


def _count_committed(run: Run) -> Counts:
    captions, failed = 0, 0
    for counts in read_counts(run, committed_shards(run)):
        captions += counts.captions
        failed += counts.failures.total()
    return Counts(captions + failed, failed)


def _read_metrics(result: PipelineResult) -> RunMetrics:
    try:
        return read_metrics(result)
    except Exception as error:  # of a service; the images are done, and only times are lost
        LOGGER.warning(f"the times by stage are unknown: {error}")
        return RunMetrics()
