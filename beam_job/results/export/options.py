"""The options of `export`, and the formats that take them."""

from __future__ import annotations

import argparse
import math

from beam_job.inputs.options import add_allowed_options
from beam_job.results.arguments import OutputParser, UsageError, whole_number
from beam_job.results.missing import KEEP, SKIP, add_missing
from beam_job.storage import local_path, scheme_of

_DESCRIPTION = """\
Writes each captioned image once to a new folder, with its newest caption or a person's correction:

  hf          Hugging Face: an ImageFolder with metadata.parquet; with --images=embed, Parquet that contains the images
  webdataset  tars with a jpg (or png, ...), a txt and a json file per image
  sidecar     a .txt (or .caption) file next to each image; with --root in the images' own folders
  coco        results.json for pycocotools, with image ids from --annotations or from a new images.json
  csv         captions.csv
  bigquery    captions.parquet, schema.json and load.sh

Images are copied in the version that was captioned, from places that their run was allowed to read. Files named by a
list on your disk are read only if the run's folder is on this machine and belongs to you. An image that has changed or
whose name cannot be used is left out and listed with the reason in DIR.left_out.jsonl, and the exit code is 1. Images
that no longer exist, are marked bad or have no caption are left out and counted. DIR must be a new or empty folder
outside --output; it appears once it is complete.
"""
_EPILOG = """\
examples:
  caption-images export --output=captions --format=hf --to=dataset
  caption-images export --output=captions --format=webdataset --to=shards --max_rows=1000
  caption-images export --output=captions --format=sidecar --images=none --root=photos --to=texts
  caption-images export --output=captions --format=hf --images=embed --only_edited --to=edited

exit codes: 0 done, 1 images or damaged files were left out, images are missing with --missing=fail, or writing failed,
2 wrong usage
"""
# Options that only some formats take, and their defaults.
_DEFAULTS: dict[str, dict[str, object]] = {
    "hf": {"images": "copy", "max_rows": 10_000, "max_bytes": 500 * 10**6},
    "webdataset": {"max_rows": 10_000, "max_bytes": 500 * 10**6},
    "sidecar": {"images": "copy", "root": None, "suffix": ".txt"},
    "coco": {"annotations": None},
    "csv": {"for_spreadsheets": False},
    "bigquery": {},
}
_TEXTS = ("csv", "coco", "bigquery")
_IMAGES = {"hf": ("copy", "link", "embed"), "sidecar": ("copy", "link", "none")}


class ExportError(UsageError):
    """The options contradict each other, or there is nothing to export; the message says what to do."""


def parse_options(arguments: list[str]) -> argparse.Namespace:
    """The options, with the format's defaults; those that the format does not take are None.

    Raises:
      UsageError: an option is not for the format, or out of range.
      StorageError: --to names another machine.
    """
    args = _parser().parse_args(arguments)
    _complete(args)
    return args


def _complete(args: argparse.Namespace) -> None:
    """Checks the options and fills in the format's defaults. Raises ExportError, StorageError."""
    if scheme_of(args.to) != "file":
        raise ExportError(f"--to={args.to} must be a local folder; copy it from there, for example with gcloud storage")
    args.to = local_path(args.to)
    defaults = _DEFAULTS[args.format]
    for name in sorted({name for options in _DEFAULTS.values() for name in options}):
        given = getattr(args, name)
        if given is None:
            setattr(args, name, defaults.get(name))
        elif name not in defaults:
            formats = ", ".join(known for known, options in _DEFAULTS.items() if name in options)
            raise ExportError(f"--{name} is for the format {formats}, not for {args.format}; leave it out")
    modes = _IMAGES.get(args.format, (args.images,))
    if args.images not in modes:
        raise ExportError(f"--images={args.images} is not for {args.format}; give one of {', '.join(modes)}")
    if args.missing is None:
        args.missing = KEEP if args.format in _TEXTS or args.images == "none" else SKIP
    if not 0 < args.fetch_timeout < math.inf:
        raise ExportError(f"--fetch_timeout must be a number of seconds above 0, not {args.fetch_timeout}")


def _parser() -> OutputParser:
    parser = OutputParser("export", _DESCRIPTION, _EPILOG)
    add = parser.add_argument
    add("--format", required=True, choices=_DEFAULTS, help="see above")
    add("--to", required=True, metavar="DIR", help="a new or empty local folder")
    add(
        "--fetch_timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds to fetch one image, including retries (default: 60)",
    )
    add_missing(parser, None, "keep for csv, coco, bigquery and --images=none, otherwise skip")
    add(
        "--only_edited",
        action="store_true",
        help="only captions that a person has corrected, for example for `python -m model train`",
    )
    _add_format_options(parser)
    add_allowed_options(
        parser.add_argument_group("where images may be read, in addition to the places that their run could read")
    )
    return parser


def _add_format_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("options of some formats").add_argument
    add(
        "--images",
        choices=("copy", "link", "embed", "none"),
        help="hf: copy (default), link (symbolic links to local files; others are copied), embed (in Parquet); "
        "sidecar: copy (default), link, none",
    )
    add(
        "--root",
        metavar="PREFIX",
        help="sidecar: keep the images' folders and names below this prefix (default: all files in one folder)",
    )
    add("--suffix", choices=(".txt", ".caption"), help="sidecar: suffix of the text files (default: .txt)")
    add("--annotations", metavar="FILE", help="coco: annotation file whose image ids are used, matched by file name")
    add(
        "--for_spreadsheets",
        action="store_true",
        default=None,
        help="csv: prefix values that a spreadsheet would read as formulas with ' (default: values are unchanged)",
    )
    add(
        "--max_rows", type=whole_number, metavar="N", help="webdataset, hf with embed: images per file (default: 10000)"
    )
    add(
        "--max_bytes",
        type=whole_number,
        metavar="N",
        help="webdataset, hf with embed: approximate size of a file in bytes (default: 500000000)",
    )
