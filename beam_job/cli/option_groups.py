"""The options of a run, in the groups in which `--help` shows them."""

from __future__ import annotations

import argparse

from beam_job import __version__
from beam_job.cli.logs import LOG_FORMATS
from beam_job.config import DEDUPE, IMAGE_COLUMNS, NAMED_CAPTIONERS, RETRY, JobConfig
from beam_job.inputs.options import CommaSeparated, add_access_options, add_allowed_options
from beam_job.runners.machines import GPUS
from model.decoding_options import add_decoding_options, add_number, number, whole_number
from model.engine_choice import add_engine_options


def _delimiter(text: str) -> str:
    """The delimiter; a tab may be written with a backslash, which shells pass on."""
    return "\t" if text == "\\t" else text


def add_input_and_output(group: argparse._ArgumentGroup) -> None:
    """Adds the options of what to caption, and where results go."""
    group.add_argument(
        "--input",
        action="append",
        required=True,
        metavar="PATH",
        help="images to caption: a folder or bucket prefix, including subfolders; a quoted glob ('photos/**/*.jpg'); "
        "a list of URIs (.txt with one per line, .csv, .tsv, .jsonl, .parquet or a Storage Insights manifest, also "
        "compressed as .gz, .bz2, .xz or .zst), a folder or glob of lists; or a single image; {a,b} and {00..41} "
        "expand to several inputs; repeatable (required)",
    )
    group.add_argument(
        "--output",
        required=True,
        metavar="FOLDER",
        help="the job's output folder: local, file://, gs:// or s3:// (required)",
    )
    _add_columns(group)
    group.add_argument(
        "--dedupe",
        choices=DEDUPE,
        help="caption images with identical bytes only once; each still gets its own row, with the same caption",
    )
    group.add_argument(
        "--delimiter",
        type=_delimiter,
        metavar="CHARACTER",
        help="separator of values in CSV lists, such as ';' or '\\t' (default: a comma, or a tab in .tsv)",
    )


def _add_columns(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--uri_column",
        default=JobConfig.uri_column,
        metavar="NAME",
        help="column of a list that contains the URIs, or in Parquet the image bytes; image.path names a field of the "
        "struct image (default: %(default)s)",
    )
    group.add_argument(
        "--carry_columns",
        action=CommaSeparated,
        default=(),
        metavar="NAMES",
        help="columns of the list to copy to the output rows, separated by commas; folder names such as "
        "date=2024-05-06/ count as columns; NAME=COLUMN renames a column, such as alt_text=caption",
    )
    group.add_argument(
        "--image_columns",
        action=CommaSeparated,
        default=(),
        metavar="NAMES",
        help=f"columns about each image to add to the captions, separated by commas: {', '.join(IMAGE_COLUMNS)}",
    )


def add_model(group: argparse._ArgumentGroup) -> None:
    """Adds the options of the model and how it captions."""
    group.add_argument(
        "--model",
        metavar="FOLDER",
        help="a model bundle: local, file:// or gs:// (default: the bundled model); with --captioner, the model that "
        "the captioner uses",
    )
    group.add_argument(
        "--captioner",
        metavar="NAME",
        help=f"use another captioner than a bundle: {', '.join(NAMED_CAPTIONERS)}, or MODULE:FUNCTION for your "
        "own (what FUNCTION returns: python -m pydoc model.ImageCaptioner)",
    )
    group.add_argument(
        "--prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="prompt for captioners that take one: TEXT or @FILE; {column} is replaced by a carried column; repeatable "
        "as NAME=TEXT, which adds a column caption_NAME for each",
    )
    add_number(
        group,
        "max_new_tokens",
        JobConfig.max_new_tokens,
        "maximum length of a caption in tokens, with a named --captioner",
    )
    group.add_argument(
        "--max_side",
        type=whole_number,
        metavar="N",
        help="longest side of the images that a named --captioner gets, in pixels (default: the captioner's)",
    )
    add_decoding_options(group)
    group.add_argument(
        "--min_score",
        type=number,
        metavar="X",
        help="flag captions with a score below X, such as -1.0, in the column low_confidence; all captions are kept",
    )


def add_selection(group: argparse._ArgumentGroup) -> None:
    """Adds the options of which images to caption."""
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


def add_list_limits(group: argparse._ArgumentGroup) -> None:
    """Adds the options of what lists may name."""
    group.add_argument(
        "--untrusted_lists",
        action="store_true",
        help="apply the same limits to lists and folders on this machine, which may otherwise name local files, "
        "buckets and public web addresses",
    )
    add_allowed_options(group)


def add_access(group: argparse._ArgumentGroup) -> None:
    """Adds how web servers and buckets are asked."""
    add_number(
        group,
        "requests_per_host",
        JobConfig.requests_per_host,
        "concurrent requests to one web server; raise it for your own servers. A server that answers 429 or 503 gets "
        "fewer, and none until its Retry-After has passed",
    )
    group.add_argument(
        "--respect_noai",
        action="store_true",
        help="do not caption images whose web server sends X-Robots-Tag: noai or noimageai; they become failures",
    )
    add_access_options(group)


def add_failures(group: argparse._ArgumentGroup) -> None:
    """Adds the options of retries, limits and the failure budget."""
    group.add_argument(
        "--retry",
        choices=RETRY,
        default=JobConfig.retry,
        help="which failures of earlier runs to retry although the file has not changed: transient (temporary "
        "failures, and those that other options, credentials or permissions may fix, unless the limit that was "
        "exceeded is unchanged), all, or none (default: %(default)s)",
    )
    group.add_argument(
        "--max_failure_ratio",
        type=number,
        default=JobConfig.max_failure_ratio,
        metavar="R",
        help="exit with 1 if more than this share of the images failed, from 0 to 1 (default: %(default)s), among all "
        "images listed or among the new ones, where bad files do not count; a worker stops the run early after 200 "
        "failures if no image has succeeded, if the last 200 failures were all temporary, or if more than this share "
        "has failed; with 1 the run is never stopped",
    )
    add_number(group, "fetch_timeout", JobConfig.fetch_timeout, "seconds to fetch one image, including retries")
    add_number(
        group, "batch_timeout", JobConfig.batch_timeout, "seconds for one batch in the model, after which the run fails"
    )
    add_number(
        group,
        "max_pixels",
        JobConfig.max_pixels,
        "images with more pixels fail; for a large JPEG, the reduced size at which it is decoded counts",
    )


def add_report(group: argparse._ArgumentGroup) -> None:
    """Adds the options of the review page."""
    group.add_argument("--no_report", action="store_true", help="do not write a review page")
    add_number(
        group,
        "report_samples",
        JobConfig.report_samples,
        "captions that are shown with a thumbnail: a sample, the same in each run, plus the captions with the lowest "
        "scores",
    )


def add_speed(group: argparse._ArgumentGroup) -> None:
    """Adds the options of processes, threads, batches and engines."""
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


def add_dataflow(group: argparse._ArgumentGroup) -> None:
    """Adds the options of estimates and Dataflow."""
    group.add_argument(
        "--estimate",
        action="store_true",
        help="print the estimated time and cost, for Dataflow also whether the job could start, then exit; the speed "
        "of this machine or of a --captioner is measured on some of the images, whose captions are discarded",
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
        help=f"GPU for each Dataflow worker, with its driver and a suitable machine type: {', '.join(GPUS)}",
    )


def add_logging(group: argparse._ArgumentGroup) -> None:
    """Adds the options of logs and the version."""
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
