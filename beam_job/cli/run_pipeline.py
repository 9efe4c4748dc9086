"""Runs the pipeline of a planned run, from its start to its metrics: progress, signals, and messages when it fails."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Collection, Iterator
from typing import TextIO

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineResult

from beam_job.captioning.engines import ENGINES
from beam_job.cli.graph import root_cause, run_graph
from beam_job.cli.logs import LOGGER, is_logged_here
from beam_job.cli.progress import NOTHING, Counts, ProgressPrinter
from beam_job.cli.progress_folder import progress_folder
from beam_job.cli.quiet import quiet_stderr
from beam_job.cli.shard_progress import count_shards
from beam_job.cli.signals import Stopped, child_processes, end_workers
from beam_job.config import JobConfig
from beam_job.output.metrics import RunMetrics, read_metrics, read_shard_metrics
from beam_job.output.sink import committed_shards, read_counts
from beam_job.pipeline import Unattended, build_pipeline
from beam_job.planning.lease import Lease, LeaseLostError
from beam_job.planning.prepare import PlannedRun
from beam_job.planning.run import Run
from beam_job.runners.beam_options import runs_here
from beam_job.runners.dask_cluster import is_local_cluster, local_cluster, partition, runs_on_dask
from beam_job.runners.dataflow_job import format_submitted, is_awaited, job_page, log_job_states, runs_on_dataflow
from beam_job.runners.worker_watch import WorkerDiedError
from beam_job.text import counted

_LAST_BATCH_S = 5.0  # for the batch under way when a signal comes


class JobError(RuntimeError):
    """The run failed after it had started; the message gives the reason, if it is known."""


class ExplainedJobError(JobError):
    """The run failed for a reason that the message gives in full: no space, no credentials, too many failures."""


def quiet(config: JobConfig, *explained: type[BaseException]) -> contextlib.AbstractContextManager[TextIO]:
    """`quiet_stderr` in the command; the stderr of another program that calls `run_job` is left alone."""
    return quiet_stderr(config.verbose or not is_logged_here(), explained)


def run_pipeline(
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
def stop_work_on_signal(options: PipelineOptions, planned: PlannedRun) -> Iterator[None]:
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
            stopped.state += ", and workers on other machines may still be running"
        raise


@contextlib.contextmanager
def _show_progress(config: JobConfig, options: PipelineOptions, planned: PlannedRun) -> Iterator[str | None]:
    """Yields the folder for the workers' progress files while their sum is shown; None for workers elsewhere."""
    if runs_on_dataflow(options):
        with quiet(config, ExplainedJobError), log_job_states(options):
            yield None
    elif runs_on_dask(options):
        others = child_processes()
        with (
            progress_folder() as folder,
            quiet(config, ExplainedJobError) as terminal,
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
            quiet(config, ExplainedJobError) as terminal,
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
