"""The command line: arguments to one frozen JobConfig; options that are not the job's own are left for Beam."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TypeVar

from beam_job import __version__
from beam_job.cli.endpoint_options import add_endpoint_options, endpoint_from
from beam_job.cli.logs import LOG_FORMATS
from beam_job.config import IMAGE_COLUMNS, NAMED_CAPTIONERS, RETRY, JobConfig
from beam_job.inputs.filters import Filters
from beam_job.inputs.options import CommandParser, CommaSeparated, add_allowed_options
from beam_job.inputs.prompts import parse_prompt
from beam_job.runners.machines import GPUS, check_gpu
from model.decoding_options import add_decoding_options, add_number, decoding_from, number, whole_number
from model.engine_choice import add_engine_options

_DESCRIPTION = "Captions all images of a folder or bucket and writes the captions to Parquet files."
_USAGE = """\
caption-images --input=PATH --output=FOLDER [OPTION ...]
       caption-images COMMAND [OPTION ...]"""
_EPILOG = """\
Other options are passed to Beam, for example
  --runner=DataflowRunner --project=... --region=... --temp_location=gs://...
On Dataflow, the job chooses --machine_type, --max_num_workers and others unless you give them.

examples:
  caption-images --input=photos --output=captions
  caption-images --input='photos/**/*.jpg' --output=captions --num_captions=3
  caption-images --input=uris.txt --output=gs://bucket/captions

commands (caption-images COMMAND --help shows their options):
  caption-images status --output=captions                         runs, current captions, what a new run would do
  caption-images snapshot --output=captions --to=newest           write the current captions, one row per URI
  caption-images export --output=captions --format=hf --to=set    write captions and images for other tools
  caption-images review --output=captions --to=review.html        write a page to check and correct all captions
  caption-images correct --output=captions corrections.jsonl      add corrections that people made
  caption-images demo                                             caption sample photographs

exit codes:
  0 success, 1 the run failed or too many images failed, 2 invalid usage, 3 another run holds the output,
  130 stopped by Ctrl-C, 143 by SIGTERM

A run that was stopped or failed is resumed by repeating the command.
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
    "uri_column",
    "carry_columns",
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
    _add_input_and_output(parser.add_argument_group("input and output"))
    _add_model(parser.add_argument_group("model and captions"))
    add_endpoint_options(parser.add_argument_group("endpoint of --captioner=openai"))
    _add_selection(parser.add_argument_group("which images to caption"))
    add_allowed_options(parser.add_argument_group("what lists may name, besides the location of --input"))
    _add_access(parser.add_argument_group("web servers and buckets"))
    _add_failures(parser.add_argument_group("failures"))
    _add_report(parser.add_argument_group("review page (OUTPUT/runs/RUN_ID/index.html)"))
    _add_speed(parser.add_argument_group("speed and memory"))
    _add_dataflow(parser.add_argument_group("estimates and Dataflow"))
    _add_logging(parser.add_argument_group("logging"))
    return parser


def _add_input_and_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--input",
        action="append",
        required=True,
        metavar="PATH",
        help="images to caption: a folder or bucket prefix, including subfolders; a quoted glob ('photos/**/*.jpg'); "
        "a list of URIs (.txt with one per line, .csv, .jsonl, .parquet or a Storage Insights manifest, also "
        "compressed as .gz); or a single image; repeatable (required)",
    )
    group.add_argument(
        "--output",
        required=True,
        metavar="FOLDER",
        help="the job's output folder: local, file:// or gs:// (required)",
    )
    group.add_argument(
        "--uri_column",
        default=JobConfig.uri_column,
        metavar="NAME",
        help="the column of a list that holds the URIs (default: %(default)s)",
    )
    group.add_argument(
        "--carry_columns",
        action=CommaSeparated,
        default=(),
        metavar="NAMES",
        help="columns of the list to copy to the output rows, separated by commas",
    )
    group.add_argument(
        "--image_columns",
        action=CommaSeparated,
        default=(),
        metavar="NAMES",
        help=f"columns about each image to add to the captions, separated by commas: {', '.join(IMAGE_COLUMNS)}",
    )


def _add_model(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--model",
        metavar="FOLDER",
        help="a model bundle: local, file:// or gs:// (default: the bundled model); with --captioner, the model that "
        "this one uses",
    )
    group.add_argument(
        "--captioner",
        metavar="NAME",
        help=f"caption with something else than a bundle: {', '.join(NAMED_CAPTIONERS)}, or MODULE:FUNCTION for your "
        "own (see docs/captioners.md)",
    )
    group.add_argument(
        "--prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="what to ask a captioner that takes prompts: TEXT or @FILE, in which {column} stands for a carried "
        "column; repeatable as NAME=TEXT, each with a caption of its own in the column caption_NAME",
    )
    add_number(group, "max_new_tokens", JobConfig.max_new_tokens, "longest caption of a named --captioner, in tokens")
    group.add_argument(
        "--max_side",
        type=whole_number,
        metavar="N",
        help="longest side of the pictures that a named --captioner gets, in pixels (default: the captioner's)",
    )
    add_decoding_options(group)
    group.add_argument(
        "--min_score",
        type=number,
        metavar="X",
        help="mark captions with a score below X, such as -1.0, in the column low_confidence; all captions are kept",
    )


def _add_selection(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--include",
        action=CommaSeparated,
        default=(),
        metavar="GLOBS",
        help="only URIs that match one of these globs, separated by commas: '*.jpg' is compared with the file name, "
        "'**/cats/*.jpg' with the whole URI; * does not match /, ** does",
    )
    group.add_argument(
        "--exclude", action=CommaSeparated, default=(), metavar="GLOBS", help="skip URIs matching any of these globs"
    )
    group.add_argument("--min_bytes", type=whole_number, metavar="N", help="only files of at least N bytes")
    group.add_argument("--max_bytes", type=whole_number, metavar="N", help="only files of at most N bytes")
    group.add_argument(
        "--sample",
        type=number,
        metavar="X",
        help="only this share of the URIs, above 0 and at most 1; each run selects the same ones",
    )
    group.add_argument(
        "--limit", type=whole_number, metavar="N", help="only the first N images after all other filters"
    )
    group.add_argument(
        "--recaption", action="store_true", help="caption all images, including those that already have a caption"
    )


def _add_access(group: argparse._ArgumentGroup) -> None:
    add_number(
        group,
        "requests_per_host",
        JobConfig.requests_per_host,
        "requests at a time to one web server; raise it for servers of your own. A server that answers 429 or 503 gets "
        "fewer, and is left alone for its Retry-After",
    )
    group.add_argument(
        "--user_agent",
        default=JobConfig.user_agent,
        metavar="TEXT",
        help="what web servers see as the program that asks (default: %(default)s)",
    )
    group.add_argument(
        "--respect_noai",
        action="store_true",
        help="images whose web server sends X-Robots-Tag: noai or noimageai are failures",
    )
    group.add_argument(
        "--billing_project",
        metavar="PROJECT",
        help="the Google Cloud project that pays for reading buckets with requester pays",
    )


def _add_failures(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--retry",
        choices=RETRY,
        default=JobConfig.retry,
        help="which failures of earlier runs to retry if the file is unchanged: transient, temporary failures and "
        "those that other options, credentials or permissions may fix, unless a limit that was exceeded is unchanged; "
        "all; or none (default: %(default)s)",
    )
    group.add_argument(
        "--max_failure_ratio",
        type=number,
        default=JobConfig.max_failure_ratio,
        metavar="R",
        help="exit with 1 if more than this share of the images failed, from 0 to 1 (default: %(default)s); a worker "
        "stops the run early after 200 failures if no image has succeeded, if the last 200 failures were all "
        "temporary, or if more than this share has failed; 1 never stops it",
    )
    add_number(group, "fetch_timeout", JobConfig.fetch_timeout, "seconds to fetch one image, including retries")
    add_number(
        group, "batch_timeout", JobConfig.batch_timeout, "seconds for one batch in the model; after that the run fails"
    )
    add_number(
        group,
        "max_pixels",
        JobConfig.max_pixels,
        "images with more pixels fail; a large JPEG counts with the reduced size at which it is decoded",
    )


def _add_report(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--no_report", action="store_true", help="do not write a review page")
    add_number(
        group,
        "report_samples",
        JobConfig.report_samples,
        "captions that have a picture on the page: a sample, the same in each run, and the lowest scores besides",
    )


def _add_speed(group: argparse._ArgumentGroup) -> None:
    add_number(group, "workers", JobConfig.workers, "processes on this machine; each loads the model")
    group.add_argument(
        "--batch_size",
        type=_number_or_auto,
        metavar="N",
        help="images per call of the model (default: auto, which is 256 on a GPU and 32 on a CPU)",
    )
    add_number(group, "shard_size", JobConfig.shard_size, "images per shard, the unit of work; one output file each")
    group.add_argument(
        "--fetch_threads",
        type=whole_number,
        metavar="N",
        help="images fetched at the same time (default: 32, or with a GPU 8 per decoding thread)",
    )
    group.add_argument(
        "--decode_threads",
        type=whole_number,
        metavar="N",
        help="images decoded at the same time (default: one per core, at most 8, or with a GPU at most 32)",
    )
    add_engine_options(group)
    group.add_argument(
        "--require_gpu", action="store_true", help="exit with 2 if TensorFlow finds no GPU, instead of using the CPU"
    )


def _add_dataflow(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--estimate",
        action="store_true",
        help="print the estimated time and cost, and for Dataflow whether the job could start; then exit; the speed "
        "of a --captioner is measured here on 16 of the images, whose captions are not kept",
    )
    group.add_argument(
        "--worker_price",
        type=number,
        metavar="DOLLARS",
        help="price of a worker per hour, for the estimate (default: the list price)",
    )
    group.add_argument(
        "--gpu",
        metavar="TYPE",
        help=f"a GPU for each Dataflow worker, with its driver and a suitable machine type: {', '.join(GPUS)}",
    )


def _add_logging(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--verbose", action="store_true", help="show Beam and TensorFlow logs")
    group.add_argument(
        "--log_format",
        choices=LOG_FORMATS,
        default="text",
        help="format of stderr: text, or json with one object per line for log collectors (default: %(default)s)",
    )
    group.add_argument(
        "--version", action="version", version=f"caption-images {__version__}", help="show the version and exit"
    )


def _number_or_auto(text: str) -> int | None:
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number or auto, not {text!r:.40}") from None


def _from_args(kind: type[T], args: argparse.Namespace) -> T:
    """A record whose fields are options of the same names."""
    return kind(**{field.name: getattr(args, field.name) for field in dataclasses.fields(kind)})  # type: ignore[arg-type]
