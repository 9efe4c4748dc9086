"""A run from its options to its summary: list, plan, caption, sum up."""

from __future__ import annotations

import contextlib
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineResult

from beam_job.caption_shards import NAMESPACE
from beam_job.config import JobConfig
from beam_job.lease import lease
from beam_job.pipeline import build_pipeline
from beam_job.plan import Plan
from beam_job.prepare import Prepared, killed_run, list_request, plan_run
from beam_job.printable import printable
from beam_job.progress import ProgressPrinter, counted
from beam_job.quiet import quiet_stderr
from beam_job.run import Run
from beam_job.runner import beam_options, runs_here
from beam_job.storage import StorageError
from beam_job.summary import Summary, summarize
from model import check_bundle
from model.devices import NoGpuError, open_gpus


class JobError(RuntimeError):
    """The job broke after it had begun; the message says where its traces lie."""


def run_job(config: JobConfig, beam_arguments: Sequence[str] = ()) -> Summary | None:
    """Captions the images of `config.inputs` that earlier runs have not done.

    Args:
      config: the job.
      beam_arguments: for Beam's PipelineOptions.

    Returns:
      the summary, as `summary.json` holds it; `_SUCCESS` stands unless too many images failed. None where nothing was
      to be done.

    Raises:
      InputError, BundleError, RunnerError, NoGpuError, StorageError: wrong usage, before anything was written.
      LeaseError: another run writes into the same output.
      JobError: the pipeline broke; the shards that were committed stand.
    """
    started = time.monotonic()
    options = beam_options(config, beam_arguments)
    model_version = check_bundle(config.bundle)
    if config.require_gpu and runs_here(options):
        _require_gpu(config.verbose)
    killed = killed_run(config, model_version)
    begun = killed or list_request(config)  # before the lease: wrong usage writes nothing
    with lease(config.output):
        prepared = (
            begun
            if isinstance(begun, Prepared)
            else plan_run(config, model_version, begun, functools.partial(_plan_in, config, options))
        )
        _announce(prepared, model_version)
        if not prepared.plan.inputs:
            return None
        seconds_by_stage = _run_pipeline(config, options, prepared.run, prepared.plan)
        try:
            summary = summarize(config, prepared, time.monotonic() - started, seconds_by_stage, model_version)
            _conclude(prepared.run, summary, config.max_failure_ratio)
        except StorageError as error:
            raise JobError(f"run {prepared.run.run_id} is not concluded: {error}; the same command goes on") from error
        return summary


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


def _conclude(run: Run, summary: Summary, max_failure_ratio: float) -> None:
    run.storage.write(run.summary, summary.to_json())
    if summary.failure_ratio <= max_failure_ratio:
        run.storage.write(run.success, b"")


def _announce(prepared: Prepared, model_version: str) -> None:
    skipped = f"{counted(prepared.skipped, 'image')} done before" if prepared.skipped else ""
    if not prepared.plan.inputs:
        print(f"nothing to do: {skipped}, model {printable(model_version)}", file=sys.stderr)
        return
    size = f"{counted(prepared.plan.inputs, 'image')} in {counted(prepared.plan.shards, 'shard')}"
    words = [size, skipped, f"{'continuing ' if prepared.continued else ''}run {prepared.run.run_id}"]
    print(", ".join(filter(None, [*words, f"model {printable(model_version)}"])), file=sys.stderr)


def _plan_in(config: JobConfig, options: PipelineOptions, build: Callable[[beam.Pipeline], None]) -> Mapping[str, int]:
    """Runs a planning graph; its counters."""
    pipeline = beam.Pipeline(options=options)
    build(pipeline)
    try:
        with quiet_stderr(config.verbose):
            result = pipeline.run()
            result.wait_until_finish()
    except Exception as error:
        raise JobError(f"planning broke: {_root_cause(error)}; the same command starts again") from error
    return _counters(result)


def _run_pipeline(config: JobConfig, options: PipelineOptions, run: Run, plan: Plan) -> Mapping[str, float]:
    """Runs the graph to its end; the seconds by stage."""
    try:
        with _progress(config, plan, here=runs_here(options)) as progress_folder:
            pipeline = beam.Pipeline(options=options)
            build_pipeline(pipeline, config, run, plan, progress_folder)
            result = pipeline.run()
            result.wait_until_finish()
    except Exception as error:
        raise JobError(f"run {run.run_id} broke: {_root_cause(error)}") from error
    return _seconds_by_stage(result)


@contextlib.contextmanager
def _progress(config: JobConfig, plan: Plan, here: bool) -> Iterator[str | None]:
    """Yields a folder for the workers' progress files while their sum is shown; None for workers elsewhere."""
    if not here:
        yield None
        return
    with (
        tempfile.TemporaryDirectory(prefix="caption-images-") as folder,
        quiet_stderr(config.verbose) as terminal,
        ProgressPrinter(folder, plan.inputs, terminal),
    ):
        yield folder


def _seconds_by_stage(result: PipelineResult) -> dict[str, float]:
    suffix = "_milliseconds"
    return {
        name.removesuffix(suffix): value / 1000 for name, value in _counters(result).items() if name.endswith(suffix)
    }


def _counters(result: PipelineResult) -> dict[str, int]:
    return {
        counter.key.metric.name: counter.result or 0
        for counter in result.metrics().query()["counters"]
        if counter.key.metric.namespace == NAMESPACE
    }


def _root_cause(error: BaseException) -> str:
    """The last line of Beam's message: with workers in other processes it holds their whole traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else repr(error)
