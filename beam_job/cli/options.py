"""The command line: arguments to one frozen JobConfig; what is not the job's own is left for Beam."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TypeVar

from beam_job import __version__
from beam_job.cli.log_format import LOG_FORMATS
from beam_job.config import RETRY, JobConfig
from beam_job.inputs.filters import Filters
from beam_job.inputs.options import CommaSeparated, add_allowed_options
from beam_job.runners.machines import GPUS, check_gpu
from model.decoding_options import add_decoding_options, add_number, decoding_from
from model.engine_choice import add_engine_options

_DESCRIPTION = "Captions for all images of a folder or bucket, in Parquet."
_EPILOG = """\
Other options go to Beam, for instance --runner=DataflowRunner --project=... --region=... --temp_location=gs://...
What --gpu and Dataflow's runner set of Beam's own options (--machine_type, --max_num_workers, ...) you may give too.

examples:
  caption-images --input=photos --output=captions
  caption-images --input='photos/**/*.jpg' --output=captions --num_captions=3
  caption-images --input=uris.txt --output=gs://bucket/captions

commands:
  caption-images status --output=captions                         the runs, what stands, what a new run would do
  caption-images snapshot --output=captions --to=newest           one row a URI, the newest, as compact Parquet
  caption-images export --output=captions --format=hf --to=set    the same with the images, for other tools
  caption-images correct --output=captions corrections.jsonl      add what people have said of captions

exit codes: 0 done, 1 the job broke or too many images failed, 2 wrong usage, 130 and 143 stopped by Ctrl-C and SIGTERM
"""


T = TypeVar("T")
# Options that are fields of JobConfig by the same name.
_SAME_NAME = (
    "output",
    "model",
    "captioner",
    "min_score",
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
      UsageError: a value is out of range.
      SystemExit: for --help, --version (0) and arguments that argparse refuses (2).
    """
    args, rest = _parser().parse_known_args(arguments)
    try:
        if args.gpu:
            check_gpu(args.gpu)
        config = JobConfig(
            inputs=tuple(args.input),
            decoding=decoding_from(args),
            filters=_from_args(Filters, args),
            **{name: getattr(args, name) for name in _SAME_NAME},
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    return config, rest


def option_names() -> list[str]:
    """All options of the job, for suggestions."""
    return [name for action in _parser()._actions for name in action.option_strings]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="caption-images",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"caption-images {__version__}")
    parser.add_argument(
        "--log_format",
        choices=LOG_FORMATS,
        default="text",
        help="of stderr: lines for people, or json, an object a line, for a log collector (default: %(default)s)",
    )
    parser.add_argument("--verbose", action="store_true", help="show what Beam and TensorFlow say of themselves")
    _add_what(parser.add_argument_group("what"))
    _add_which(parser.add_argument_group("which images"))
    add_allowed_options(parser.add_argument_group("what a list may name, beside the place of --input itself"))
    captions = parser.add_argument_group("captions")
    add_decoding_options(captions)
    captions.add_argument(
        "--min_score",
        type=float,
        metavar="X",
        help="mark captions whose score is lower, such as -1.0, in the column low_confidence; none is left out",
    )
    _add_report(parser.add_argument_group("review page (OUTPUT/runs/RUN_ID/index.html)"))
    _add_speed(parser.add_argument_group("speed"))
    _add_dataflow(parser.add_argument_group("before a large run, and on Dataflow"))
    return parser


def _add_what(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--input",
        action="append",
        required=True,
        metavar="PATH",
        help="images: a folder or bucket prefix (searched with its subfolders), a glob in quotes ('**/*.jpg'), a list "
        "of URIs (.txt with one a line, .csv, .jsonl, .parquet, a Storage Insights manifest; .gz too), or one image; "
        "may be given several times",
    )
    group.add_argument(
        "--uri_column",
        default=JobConfig.uri_column,
        metavar="NAME",
        help="of lists with columns (default: %(default)s)",
    )
    group.add_argument(
        "--carry_columns",
        action=CommaSeparated,
        default=(),
        metavar="NAMES",
        help="columns of the list to repeat in the captions' rows, separated by commas",
    )
    group.add_argument("--output", required=True, metavar="FOLDER", help="results go here; local, file:// or gs://")
    group.add_argument(
        "--model", metavar="FOLDER", help="a model bundle, local, file:// or gs:// (default: the one that ships)"
    )
    group.add_argument(
        "--captioner",
        metavar="MODULE:FUNCTION",
        help="any other captioner: what package.module:function, called with --model and the decoding, returns (see "
        "the README)",
    )
    group.add_argument(
        "--max_failure_ratio",
        type=float,
        default=JobConfig.max_failure_ratio,
        metavar="R",
        help="exit with 1 where more than this share of the images failed (default: %(default)s); a worker that has "
        "seen 200 failures or more stops the run where no image has succeeded, where the last 200 failed for reasons "
        "that may pass, and where more than this share of all images failed; 1 never stops",
    )


def _add_report(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--no_report", action="store_true", help="write none")
    group.add_argument(
        "--report_samples",
        type=int,
        default=JobConfig.report_samples,
        metavar="N",
        help="images on it, the same ones every time, beside the lowest scores and the failures (default: %(default)s)",
    )


def _add_which(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--include",
        action=CommaSeparated,
        default=(),
        metavar="GLOBS",
        help="only URIs that match one of these, separated by commas: '*.jpg' looks at the file's name, "
        "'**/cats/*.jpg' at the whole URI; * stops at /, ** does not",
    )
    group.add_argument("--exclude", action=CommaSeparated, default=(), metavar="GLOBS", help="none of these")
    group.add_argument("--min_bytes", type=int, metavar="N", help="only files of this size or more, where it is known")
    group.add_argument("--max_bytes", type=int, metavar="N", help="only files of this size or less, where it is known")
    group.add_argument(
        "--sample", type=float, metavar="X", help="only this share of the URIs, from 0 to 1, the same ones every time"
    )
    group.add_argument("--limit", type=int, metavar="N", help="only the first N of those that remain")
    group.add_argument(
        "--retry",
        choices=RETRY,
        default=JobConfig.retry,
        help="failures of earlier runs to try again, if the file is the same as then (default: %(default)s)",
    )
    group.add_argument(
        "--recaption", action="store_true", help="caption everything, also what an earlier run has captioned"
    )


def _number_or_auto(text: str) -> int | None:
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number or auto, not {text!r}") from None


def _from_args(kind: type[T], args: argparse.Namespace) -> T:
    """A record whose fields are options of the same names."""
    return kind(**{field.name: getattr(args, field.name) for field in dataclasses.fields(kind)})  # type: ignore[arg-type]


def _add_speed(group: argparse._ArgumentGroup) -> None:
    defaults = JobConfig(inputs=(), output="")
    add_number(group, "workers", defaults.workers, "processes on this machine, each with its own model")
    group.add_argument(
        "--batch_size",
        type=_number_or_auto,
        metavar="N",
        help="images that the model captions at once (default: auto, which is 256 on a GPU and 32 on the CPU)",
    )
    add_number(group, "shard_size", defaults.shard_size, "images a shard: the unit of work, one output file each")
    group.add_argument(
        "--fetch_threads",
        type=int,
        metavar="N",
        help="images fetched at the same time (default: 32, or 8 for each that is decoded where there is a GPU)",
    )
    add_number(group, "fetch_timeout", defaults.fetch_timeout, "seconds to fetch one image, retries included")
    add_number(group, "batch_timeout", defaults.batch_timeout, "seconds for one batch; after that the run fails")
    group.add_argument(
        "--decode_threads",
        type=int,
        metavar="N",
        help="images decoded at the same time (default: one a core, 8 at most, or 32 where there is a GPU)",
    )
    add_number(
        group, "max_pixels", defaults.max_pixels, "larger images fail; a large JPEG counts with its reduced size"
    )
    add_engine_options(group)
    group.add_argument(
        "--require_gpu", action="store_true", help="refuse to start, with exit code 2, where TensorFlow sees no GPU"
    )


def _add_dataflow(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--estimate",
        action="store_true",
        help="tell what the run would take and cost, and on Dataflow whether it could start, and do nothing",
    )
    group.add_argument(
        "--worker_price", type=float, metavar="DOLLARS", help="an hour of a worker, instead of the list price"
    )
    group.add_argument(
        "--gpu",
        metavar="TYPE",
        help=f"for each worker of Dataflow, with its driver and a machine that fits: {', '.join(GPUS)}",
    )
