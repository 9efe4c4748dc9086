"""The command line: arguments to one frozen JobConfig; what is not the job's own is left for Beam."""

from __future__ import annotations

import argparse

from beam_job import __version__
from beam_job.config import JobConfig
from model.decoding_options import add_decoding_options, add_number, decoding_from

_DESCRIPTION = "Captions for all images of a folder or bucket, in Parquet."
_EPILOG = """\
Other options go to Beam, for instance --runner=DataflowRunner --project=... --region=... --temp_location=gs://...

examples:
  caption-images --input=photos --output=captions
  caption-images --input='photos/**/*.jpg' --output=captions --num_captions=3
  caption-images --input=uris.txt --output=gs://bucket/captions --workers=4

exit codes: 0 done, 1 the job broke or too many images failed, 2 wrong usage
"""


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
        config = JobConfig(
            inputs=tuple(args.input),
            output=args.output,
            model=args.model,
            decoding=decoding_from(args),
            shard_size=args.shard_size,
            batch_size=args.batch_size,
            fetch_threads=args.fetch_threads,
            decode_threads=args.decode_threads,
            workers=args.workers,
            max_failure_ratio=args.max_failure_ratio,
            verbose=args.verbose,
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
    parser.add_argument("--verbose", action="store_true", help="show what Beam and TensorFlow say of themselves")
    _add_what(parser.add_argument_group("what"))
    add_decoding_options(parser.add_argument_group("captions"))
    _add_speed(parser.add_argument_group("speed"))
    return parser


def _add_what(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--input",
        action="append",
        required=True,
        metavar="PATH",
        help="images: a folder (searched with its subfolders), a glob in quotes ('photos/**/*.jpg'), a .txt file with "
        "one URI a line, or one image; local, file:// or gs://; may be given several times",
    )
    group.add_argument("--output", required=True, metavar="FOLDER", help="results go here; local, file:// or gs://")
    group.add_argument("--model", metavar="FOLDER", help="a model bundle (default: the one that ships)")
    group.add_argument(
        "--max_failure_ratio",
        type=float,
        default=JobConfig.max_failure_ratio,
        metavar="R",
        help="exit with 1 where more than this share of the images failed (default: %(default)s)",
    )


def _add_speed(group: argparse._ArgumentGroup) -> None:
    defaults = JobConfig(inputs=(), output="")
    add_number(group, "workers", defaults.workers, "processes on this machine, each with its own model")
    add_number(group, "batch_size", defaults.batch_size, "images that the model captions at once")
    add_number(group, "shard_size", defaults.shard_size, "images a shard: the unit of work, one output file each")
    add_number(group, "fetch_threads", defaults.fetch_threads, "images fetched at the same time")
    group.add_argument(
        "--decode_threads",
        type=int,
        default=defaults.decode_threads,
        metavar="N",
        help="images decoded at the same time (default: one a core, 8 at most)",
    )
