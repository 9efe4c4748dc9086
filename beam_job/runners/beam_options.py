"""Chooses Beam's runner for the job, and its options."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions, StandardOptions

from beam_job.config import JobConfig
from beam_job.inputs.options import CommandParser
from beam_job.runners.dask_cluster import DASK_RUNNER, has_cluster, load_dask_options, means_dask

IN_PROCESS = "FnApiRunner"


class RunnerError(ValueError):
    """These runner options do not go together; the message says what to give instead."""


def beam_options(config: JobConfig, arguments: Sequence[str], job_options: Sequence[str] = ()) -> PipelineOptions:
    """Beam's options, from the arguments that are not the job's own.

    Args:
      config: the job.
      arguments: what the job's parser left over.
      job_options: names of the job's options, to suggest one for a misspelt name.

    No runner and DirectRunner both mean Beam's in-process engine: DirectRunner would first try to download another.

    Raises:
      RunnerError: an option or a runner that Beam does not know, or options that do not go together.
    """
    asked = PipelineOptions(list(arguments)).view_as(StandardOptions).runner or "DirectRunner"
    if means_dask(asked):
        if missing := load_dask_options():  # before options are checked: Beam knows Dask's only afterwards
            raise RunnerError(missing)
        arguments = [*arguments, f"--runner={DASK_RUNNER}"]
    _refuse_unknown(arguments, job_options)
    options = PipelineOptions(list(arguments))
    runner = options.view_as(StandardOptions).runner or "DirectRunner"
    known = [name.lower() for name in StandardOptions.KNOWN_RUNNER_NAMES]
    if "." not in runner and runner.lower() not in known and f"{runner.lower()}runner" not in known:
        raise RunnerError(f"unknown runner {runner}; Beam has {', '.join(StandardOptions.KNOWN_RUNNER_NAMES)}")
    if runner.lower() in ("direct", "directrunner", IN_PROCESS.lower()):
        return PipelineOptions([*arguments, f"--runner={IN_PROCESS}", *_workers(config.workers)])
    if runner.lower() in ("portable", "portablerunner") and not options.view_as(PortableOptions).job_endpoint:
        raise RunnerError(f"--runner={runner} needs --job_endpoint=HOST:PORT, where the cluster's job server listens")
    if runner == DASK_RUNNER and not has_cluster(options):
        return options
    if config.workers > 1:
        raise RunnerError(f"--workers={config.workers} is for this machine; with --runner={runner} use Beam's options")
    return options


def runs_here(options: PipelineOptions) -> bool:
    """Whether the workers are processes of this machine."""
    return options.view_as(StandardOptions).runner == IN_PROCESS


def job_server_reason(error: BaseException, options: PipelineOptions) -> str | None:
    """Why a graph did not get as far as a job server, in a line; None for errors of another kind."""
    if type(error).__name__ == "FutureTimeoutError":  # gRPC's, which says nothing
        return f"no job server answers at --job_endpoint={options.view_as(PortableOptions).job_endpoint}"
    if "remote job server jar" in str(error):
        return (
            f"--runner={options.view_as(StandardOptions).runner} starts Beam's job server, a Java program, which could "
            "not be fetched; give its file (--flink_job_server_jar, --spark_job_server_jar), or the address of one "
            f"that runs (--runner=PortableRunner --job_endpoint=HOST:PORT): {str(error).splitlines()[0]}"
        )
    return None


def _workers(count: int) -> list[str]:
    if count == 1:
        return []
    return [f"--direct_num_workers={count}", "--direct_running_mode=multi_processing"]


def _refuse_unknown(arguments: Sequence[str], job_options: Sequence[str]) -> None:
    """Beam itself only logs what it does not know, and a misspelt option would be lost."""
    parser = CommandParser("caption-images", add_help=False)
    known: list[str] = []
    for group in _all_option_groups(PipelineOptions):
        group._add_argparse_args(parser)
    known = [name for action in parser._actions for name in action.option_strings]
    _, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        name = unknown[0].split("=")[0]
        near = difflib.get_close_matches(name, [*job_options, *known], n=1)
        hint = f"did you mean {near[0]}?" if near else "see --help"
        raise RunnerError(f"unknown option {unknown[0]}; {hint}")


def _all_option_groups(parent: type[PipelineOptions]) -> list[type[PipelineOptions]]:
    groups = []
    for group in parent.__subclasses__():
        groups += [group, *_all_option_groups(group)]
    return [group for group in groups if "_add_argparse_args" in vars(group)]
