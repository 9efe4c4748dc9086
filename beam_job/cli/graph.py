"""Runs Beam's graph while watching signals, the lease and worker processes; explains why it failed."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineResult

from beam_job.captioning.batch_runner import BatchTimeoutError
from beam_job.captioning.budgets import FailureBudgetError
from beam_job.captioning.input_check import InputGoneError
from beam_job.cli.host_limits import host_limit
from beam_job.cli.signals import stopped_workers
from beam_job.output.sink import committed_shards
from beam_job.planning.lease import Lease
from beam_job.planning.prepare import PlannedRun
from beam_job.runners.beam_options import job_server_reason
from beam_job.runners.dask_cluster import (
    check_finished,
    close_models,
    dask_reason,
    log_lack_of_workers,
    runs_on_dask,
)
from beam_job.runners.dataflow_job import failure_reason, is_awaited
from beam_job.runners.worker_watch import WorkerWatch
from beam_job.storage import CredentialsError, StorageError
from model import BundleError, CaptionerError
from model.engine_choice import EngineError

T = TypeVar("T")
# Errors whose message is all that a user needs.
EXPLAINED_ERRORS = (
    FailureBudgetError,
    InputGoneError,
    BatchTimeoutError,
    CredentialsError,
    StorageError,
    BundleError,
    CaptionerError,
    EngineError,
)


def run_graph(
    options: PipelineOptions, build: Callable[[beam.Pipeline], None], planned: PlannedRun, held: Lease
) -> PipelineResult:
    """Builds and runs a graph, and waits for its end unless it is not awaited.

    It runs in its own thread, so that a signal, a lost lease or a dead worker is noticed while it runs.

    Raises:
      LeaseLostError: another run has taken the output over.
      WorkerDiedError: a worker process of this machine has died.
      Exception: whatever Beam raises.
    """
    on_dask = runs_on_dask(options)

    def run_to_its_end() -> PipelineResult:
        pipeline = beam.Pipeline(options=options)
        build(pipeline)
        result = pipeline.run()
        if is_awaited(options):
            with log_lack_of_workers(result.client) if on_dask else contextlib.nullcontext():
                result.wait_until_finish()
        if on_dask:
            check_finished(result, options)
            close_models(result)
        return result

    workers = WorkerWatch(lambda: len(committed_shards(planned.run)) < planned.plan.shards, stopped=stopped_workers)
    with workers.exit_codes_noted():
        return _in_thread(run_to_its_end, held.check, workers.check)


def _in_thread(work: Callable[[], T], *checks: Callable[[], None]) -> T:
    """The result of `work`; `checks` are called while it runs, and an error of theirs ends the wait."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="beam", daemon=True).start()
    while not done.done():
        wait([done], timeout=0.2)  # the system may hand a signal to any thread, but only this one can handle it
        for check in checks:
            check()
    return done.result()


def root_cause(error: BaseException, options: PipelineOptions) -> tuple[str, bool]:
    """The reason for an error of `run_graph` in a line, and whether that line explains it in full.

    Beam adds the step's name to the message. The message of an error in another process is its whole traceback, whose
    last line names the error's class.
    """
    if reason := failure_reason(error, options) or job_server_reason(error, options) or dask_reason(error, options):
        return reason, True
    lines = [line for line in str(error).splitlines() if line.strip()]
    last = re.sub(r" \[while running .*\]$", "", lines[-1].strip()) if lines else repr(error)
    for known in EXPLAINED_ERRORS:
        name = f"{known.__module__}.{known.__qualname__}: "
        if isinstance(error, known) or last.startswith(name):
            return last.removeprefix(name), True
    if reason := host_limit(error):
        return reason, True
    return last, False
