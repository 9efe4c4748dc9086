"""The program that Dataflow's flex template launcher runs: the same command, with the template's parameters as options.

The launcher adds `--runner`, `--project`, `--region`, `--template_location` and more. When this process has exited with
0, it starts the job that was written to `--template_location`; if there is none, the launch counts as failed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import apache_beam as beam

from beam_job.cli.command import main
from beam_job.cli.options import job_parser, parse
from beam_job.cli.signals import end_process
from beam_job.runners.beam_options import beam_options
from beam_job.runners.dataflow import with_dataflow
from beam_job.runners.dataflow_job import options_without_gpu, template_of
from beam_job.storage import storage_for

# Options without a value; template parameters always have one.
FLAGS = tuple(action.dest for action in job_parser()._actions if isinstance(action.default, bool))


def launch(parameters: Sequence[str]) -> int:
    """Plans the nightly run and writes its job; returns the exit code."""
    arguments = as_options(parameters)
    code = main(arguments)
    return code or write_idle_job_where_none_is(arguments)


def as_options(parameters: Sequence[str]) -> list[str]:
    """Drops empty parameters, and turns `--flag=true` into `--flag`."""
    options = []
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.removeprefix("--") in FLAGS and value.lower() in ("true", "false"):
            options += [name] if value.lower() == "true" else []
        elif value or "=" not in parameter:
            options.append(parameter)
    return options


def write_idle_job_where_none_is(arguments: Sequence[str]) -> int:
    """If there was nothing to do, writes a job that does nothing, on a worker without a GPU."""
    options = beam_options(*with_dataflow(*parse(arguments)))
    location = template_of(options)
    if location and not storage_for(location).exists(location):
        pipeline = beam.Pipeline(options=options_without_gpu(options))
        _ = pipeline | "NothingToDo" >> beam.Create([None])
        pipeline.run()
    return 0


if __name__ == "__main__":
    code = launch(sys.argv[1:])
    if code:
        end_process(code)  # threads of a failed job may hang in a read
