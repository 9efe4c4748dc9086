"""A run from its options to its summary: list, plan, caption, sum up."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from typing import TypeVar

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineResult

from beam_job.captioning.batch_runner import BatchTimeoutError
from beam_job.captioning.budgets import FailureBudgetError
from beam_job.captioning.captioners import CaptionerError, model_version
from beam_job.captioning.engines import ENGINES
from beam_job.captioning.input_check import InputGoneError
from beam_job.cli.options import option_names
from beam_job.cli.progress import NOTHING, Counts, ProgressPrinter
from beam_job.cli.quiet import quiet_stderr
from beam_job.cli.signals import Stopped, end_workers
from beam_job.config import JobConfig
from beam_job.output.conclude import conclude
from beam_job.output.metrics import RunMetrics, read_metrics
from beam_job.output.sink import committed_shards, read_counts
from beam_job.output.summary import Summary
from beam_job.pipeline import Unattended, build_pipeline
from beam_job.planning.lease import Lease, LeaseLostError, lease
from beam_job.planning.prepare import PlannedRun, find_resumable_run, list_inputs, plan_run, record_choice
from beam_job.planning.run import Run
from beam_job.runners.beam_options import beam_options, job_server_reason, runs_here
from beam_job.runners.dataflow_job import (
    is_awaited,
    options_of_run,
    page_of,
    reason_of,
    runs_on_dataflow,
    submitted,
    told_states,
)
from beam_job.runners.preflight import announce_workers, check_reachable, tell_estimate
from beam_job.runners.worker_watch import WorkerDiedError, WorkerWatch
from beam_job.storage import CredentialsError, StorageError
from beam_job.text import counted, printable
from model import BundleError
from model.devices import NoGpuError, open_gpus
from model.engine_choice import EngineError, check_engine

T = TypeVar("T")
_LAST_BATCH_S = 5.0  # for the batch under way when a signal comes
_TOLD_IN_FULL = (
    FailureBudgetError,
    InputGoneError,
    BatchTimeoutError,
    CredentialsError,
    StorageError,
    BundleError,
    CaptionerError,
    EngineError,
)


class JobError(RuntimeError):
    """The job broke after it had begun; the message says why as far as it is known."""


class BrokenOffError(JobError):
    """The job broke for a reason that the message tells in full: no space, no credentials, too many failures."""


def run_job(config: JobConfig, beam_arguments: Sequence[str] = ()) -> Summary | None:
    """Captions the images of `config.inputs` that earlier runs have not done.

    Args:
      config: the job.
      beam_arguments: for Beam's PipelineOptions.

    Returns:
      the summary, as `summary.json` holds it; `_SUCCESS` stands unless too many images failed. None where nothing was
      to be done, with `config.estimate`, and where Dataflow's job is not waited for.

    Raises:
      InputError, BundleError, CaptionerError, RunnerError, NoGpuError, EngineError, PreflightError, StorageError: wrong
        usage, before anything was written.
      LeaseError, LeaseLostError: another run writes into the same output.
      JobError: the pipeline broke; the shards that were committed stand.
      Stopped: a signal came; the shards that were committed stand.
    """
    started = time.monotonic()
    options = beam_options(config, beam_arguments, option_names())
    if not runs_here(options):
        config = config.with_absolute_paths()
    version = _model_version(config)
    if config.estimate:
        tell_estimate(config, beam_arguments, version)
        return None
    if runs_here(options):
        check_engine(config.engine)
        if config.require_gpu:
            _require_gpu(config.verbose)
    check_reachable(config, beam_arguments)
    prepare = _listed(config, version)  # before the lease: wrong usage writes nothing
    with lease(config.output) as held:
        prepared = prepare(held)
        _announce(prepared, version)
        if prepared.choice:
            conclude(dataclasses.replace(config, no_report=True), prepared, 0.0, RunMetrics(), version)
            record_choice(prepared)
        if not prepared.plan.inputs:
            return None
        announce_workers(config, beam_arguments, prepared)
        options = options_of_run(options, prepared.run.run_id)
        with _stopped_halfway(options, prepared):
            taken = _run_pipeline(config, options, prepared, version, held)
        if taken is None:
            return None
        try:
            held.verify()
            return conclude(config, prepared, time.monotonic() - started, taken, version)
        except StorageError as error:
            reason = f"run {prepared.run.run_id} is not concluded: {error}; the same command goes on"
            raise BrokenOffError(reason) from error
        except LeaseLostError as error:
            raise BrokenOffError(f"run {prepared.run.run_id} is not concluded: {error}") from error


def _model_version(config: JobConfig) -> str:
    """A function of the user's imports what it likes; the errors say it all, so nothing else is shown of them."""
    with quiet_stderr(config.verbose, plain=_TOLD_IN_FULL):
        return model_version(config)


def _require_gpu(verbose: bool) -> None:
    """Imports TensorFlow, which says much; of an error inside `quiet_stderr` all of that would be shown."""
    refused = None
    with quiet_stderr(verbose):
        try:
            open_gpus(required=True)
        except NoGpuError as error:
            refused = error
    if refused:
        raise refused


def _announce(prepared: PlannedRun, model_version: str) -> None:
    skipped = f"{counted(prepared.skipped, 'image')} done before" if prepared.skipped else ""
    if not prepared.plan.inputs:
        print(f"nothing to do: {skipped}, model {printable(model_version)}", file=sys.stderr)
        return
    size = f"{counted(prepared.plan.inputs, 'image')} in {counted(prepared.plan.shards, 'shard')}"
    words = [size, skipped, f"{'continuing ' if prepared.resumed else ''}run {prepared.run.run_id}"]
    print(", ".join(filter(None, [*words, f"model {printable(model_version)}"])), file=sys.stderr)


def _listed(config: JobConfig, model_version: str) -> Callable[[Lease], PlannedRun]:
    """Looks for an interrupted run, or lists the images; what it returns makes the plan under the lease."""
    if resumable := find_resumable_run(config, model_version):
        return lambda _: resumable
    listing = list_inputs(config)
    return lambda held: plan_run(config, model_version, listing, held.verify)


def _run_pipeline(
    config: JobConfig, options: PipelineOptions, prepared: PlannedRun, version: str, held: Lease
) -> RunMetrics | None:
    """Runs the graph to its end; what it took. None where its end is not waited for."""
    unattended = None if is_awaited(options) else Unattended(prepared, version, time.time())

    def build(pipeline: beam.Pipeline) -> None:
        build_pipeline(pipeline, config, prepared.run, prepared.plan, folder, unattended)

    with _progress(config, options, prepared) as folder:
        try:
            result = _run_graph(options, build, prepared, held)
        except LeaseLostError as error:
            end_workers()
            raise BrokenOffError(f"run {prepared.run.run_id} was stopped: {error}") from error
        except WorkerDiedError as error:
            end_workers()
            raise BrokenOffError(f"run {prepared.run.run_id} failed: {error}; repeat the command to resume") from error
        except Exception as error:
            kind, reason = _root_cause(error, options)
            raise kind(f"run {prepared.run.run_id} broke: {reason}; the same command goes on") from error
    if unattended:
        print(submitted(options, result, prepared.run.run_id), file=sys.stderr)
        return None
    return _measured(result)


def _run_graph(
    options: PipelineOptions, build: Callable[[beam.Pipeline], None], planned: PlannedRun, held: Lease
) -> PipelineResult:
    """Runs the graph in a thread of its own, so that a signal, a lost lease or a dead worker is noticed meanwhile."""

    def run_to_its_end() -> PipelineResult:
        pipeline = beam.Pipeline(options=options)
        build(pipeline)
        result = pipeline.run()
        if is_awaited(options):
            result.wait_until_finish()
        return result

    workers = WorkerWatch(lambda: len(committed_shards(planned.run)) < planned.plan.shards)
    with workers.exit_codes_noted():
        return _in_thread(run_to_its_end, held.check, workers.check)


def _in_thread(work: Callable[[], T], *checks: Callable[[], None]) -> T:
    """The result of `work`; `checks` are called while it runs, and what they raise ends the wait."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="beam", daemon=True).start()
    while not done.done():
        wait([done], timeout=0.2)  # the system may hand a signal to any thread, and only this one can answer it
        for check in checks:
            check()
    return done.result()


@contextlib.contextmanager
def _stopped_halfway(options: PipelineOptions, prepared: PlannedRun) -> Iterator[None]:
    """Where a signal ends this block: ends the work, and tells what stands."""
    try:
        yield
    except Stopped as stopped:
        ENGINES.stop(_LAST_BATCH_S)
        end_workers()
        written = len(committed_shards(prepared.run))
        stopped.standing = f"{written:,} of {counted(prepared.plan.shards, 'shard')} are written"
        if runs_on_dataflow(options):
            stopped.standing += f", and Dataflow's job may go on ({page_of(options)})"
        elif not runs_here(options):
            stopped.standing += ", and the workers elsewhere may go on"
        raise


@contextlib.contextmanager
def _quiet(config: JobConfig, options: PipelineOptions) -> Iterator[None]:
    """Holds stderr back in this block, but for what people should know of a job of Dataflow's."""
    with quiet_stderr(config.verbose, plain=(BrokenOffError,)) as terminal, told_states(options, terminal):
        yield


@contextlib.contextmanager
def _progress(config: JobConfig, options: PipelineOptions, prepared: PlannedRun) -> Iterator[str | None]:
    """Yields a folder for the workers' progress files while their sum is shown; None for workers elsewhere."""
    if not runs_here(options):
        with _quiet(config, options) if runs_on_dataflow(options) else contextlib.nullcontext():
            yield None
        return
    before = _done_before(prepared.run) if prepared.resumed else NOTHING
    with (
        tempfile.TemporaryDirectory(prefix="caption-images-", ignore_cleanup_errors=True) as folder,
        quiet_stderr(config.verbose, plain=(BrokenOffError,)) as terminal,
        ProgressPrinter(folder, prepared.plan.inputs, terminal, before),
    ):
        yield folder


def _done_before(run: Run) -> Counts:
    captions, failed = 0, 0
    for counts in read_counts(run, committed_shards(run)):
        captions += counts.captions
        failed += counts.failures.total()
    return Counts(captions + failed, failed)


def _measured(result: PipelineResult) -> RunMetrics:
    try:
        return read_metrics(result)
    except Exception as error:  # of a service; the images are done, and only times are lost
        print(f"the times by stage are unknown: {printable(str(error))}", file=sys.stderr)
        return RunMetrics()


def _root_cause(error: BaseException, options: PipelineOptions) -> tuple[type[JobError], str]:
    """What kind of end it is, and why, in a line.

    Beam adds the step's name to the message; with workers in other processes it is their whole traceback, of which the
    last line names the error's class.
    """
    if told := reason_of(error, options) or job_server_reason(error, options):
        return BrokenOffError, told
    lines = [line for line in str(error).splitlines() if line.strip()]
    last = re.sub(r" \[while running .*\]$", "", lines[-1].strip()) if lines else repr(error)
    for known in _TOLD_IN_FULL:
        name = f"{known.__module__}.{known.__qualname__}: "
        if isinstance(error, known) or last.startswith(name):
            return BrokenOffError, last.removeprefix(name)
    return JobError, last
