"""The command line: turns arguments into one frozen JobConfig; Beam gets the options that the job does not define."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TypeVar

from beam_job.cli import option_groups as groups
from beam_job.cli.endpoint_options import add_endpoint_options, endpoint_from
from beam_job.config import JobConfig
from beam_job.inputs.filters import Filters
from beam_job.inputs.options import CommandParser
from beam_job.inputs.prompts import parse_prompt
from beam_job.runners.machines import check_gpu
from model.decoding_options import decoding_from

_DESCRIPTION = "Captions all images of a folder or bucket and writes the captions to Parquet files."
_USAGE = """\
caption-images --input=PATH --output=FOLDER [OPTION ...]
       caption-images COMMAND [OPTION ...]"""
_EPILOG = """\
Other options are passed to Beam, for example
  --runner=DataflowRunner --project=... --region=... --temp_location=gs://...
On Dataflow, the job sets --machine_type, --max_num_workers and others unless you give them.

examples:
  caption-images --input=photos --output=captions
  caption-images --input='photos/**/*.jpg' --output=captions --num_captions=3
  caption-images --input=uris.txt --output=gs://bucket/captions

commands (caption-images COMMAND --help shows their options):
  caption-images status --output=captions                         runs, current captions, what a new run would do
  caption-images snapshot --output=captions --to=newest           write the current captions, one row per URI
  caption-images export --output=captions --format=hf --to=set    write captions and images for other tools
  caption-images review --output=captions --to=review.html        write a page for checking and correcting all captions
  caption-images correct --output=captions corrections.jsonl      add people's corrections
  caption-images demo                                             caption sample photographs

exit codes:
  0 success, 1 the run failed or too many images failed, 2 wrong usage, 3 another run is writing to the output,
  130 stopped by Ctrl-C, 143 by SIGTERM

To resume a run that was stopped or failed, repeat the command.
"""


T = TypeVar("T")
# Options that are fields of JobConfig with the same name.
_SAME_NAME = (
    "output",
    "model",
    "captioner",
    "max_new_tokens",
    "max_side",
    "min_score",
    "image_columns",
    "dedupe",
    "uri_column",
    "carry_columns",
    "delimiter",
    "untrusted_lists",
    "allow_schemes",
    "allow_root",
    "allow_buckets",
    "allow_private_addresses",
    "retry",
    "recaption",
    "shard_size",
    "batch_size",
    "fetch_threads",
    "fetch_timeout",
    "requests_per_host",
    "user_agent",
    "respect_noai",
    "billing_project",
    "batch_timeout",
    "decode_threads",
    "max_pixels",
    "workers",
    "engine",
    "precision",
    "require_gpu",
    "max_failure_ratio",
    "gpu",
    "estimate",
    "worker_price",
    "verbose",
    "no_report",
    "report_samples",
)


class UsageError(ValueError):
    """The options contradict each other or are out of range; the message names the option and its value."""


def parse(arguments: list[str] | None = None) -> tuple[JobConfig, list[str]]:
    """The job's configuration, and the arguments left for Beam.

    Raises:
      UsageError: a value is out of range, or options contradict each other.
      SystemExit: for --help and --version (0), and for arguments that argparse refuses (2).
    """
    args, rest = job_parser().parse_known_args(arguments)
    try:
        if not args.output or not all(args.input):
            raise UsageError("--input and --output must not be empty")
        if args.gpu:
            check_gpu(args.gpu)
        config = JobConfig(
            inputs=tuple(args.input),
            decoding=decoding_from(args),
            endpoint=endpoint_from(args),
            prompts=tuple(map(parse_prompt, args.prompt)),
            filters=_from_args(Filters, args),
            **{name: getattr(args, name) for name in _SAME_NAME},
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    return config, rest


def option_names() -> list[str]:
    """All options of the job, for suggestions."""
    return [name for action in job_parser()._actions for name in action.option_strings]


def job_parser() -> CommandParser:
    """The parser of a run, without Beam's options; `docs/options.md` is made from it."""
    parser = CommandParser("caption-images", usage=_USAGE, description=_DESCRIPTION, epilog=_EPILOG)
    groups.add_input_and_output(parser.add_argument_group("input and output"))
    groups.add_model(parser.add_argument_group("model and captions"))
    add_endpoint_options(parser.add_argument_group("endpoint of --captioner=openai"))
    groups.add_selection(parser.add_argument_group("which images to caption"))
    limits = "what lists in buckets and on the web may name, in addition to the location of --input"
    groups.add_list_limits(parser.add_argument_group(limits))
    groups.add_access(parser.add_argument_group("web servers and buckets"))
    groups.add_failures(parser.add_argument_group("failures"))
    groups.add_report(parser.add_argument_group("review page (OUTPUT/runs/RUN_ID/index.html)"))
    groups.add_speed(parser.add_argument_group("speed and memory"))
    groups.add_dataflow(parser.add_argument_group("estimates and Dataflow"))
    groups.add_logging(parser.add_argument_group("logging"))
    return parser


def _from_args(kind: type[T], args: argparse.Namespace) -> T:
    """A record whose fields are options of the same names."""
    return kind(**{field.name: getattr(args, field.name) for field in dataclasses.fields(kind)})  # type: ignore[arg-type]
