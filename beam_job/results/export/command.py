"""`export`: what stands in an output, in a form that other tools read."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import shlex
import shutil
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from beam_job.config import JobConfig
from beam_job.planning.run import read_runs
from beam_job.results.corrections import BAD, EDITED
from beam_job.results.current import read_standing
from beam_job.results.export import csv_file
from beam_job.results.export.bigquery import write_bigquery
from beam_job.results.export.coco import write_coco
from beam_job.results.export.hugging_face import write_imagefolder, write_with_images
from beam_job.results.export.images import Images
from beam_job.results.export.left_out import LeftOut
from beam_job.results.export.options import ExportError, parse_options
from beam_job.results.export.sidecar import write_sidecars
from beam_job.results.export.webdataset import write_webdataset
from beam_job.storage import Allowed
from beam_job.text import counted, printable_lines

_ROWS = 1_000  # held at a time

_NEXT = {
    "hf": "datasets.load_dataset({to!r})",
    "webdataset": "webdataset.WebDataset(sorted(glob.glob({to!r} + '/*.tar')))",
    "sidecar": "",
    "coco": "COCO({annotations!r}).loadRes({to!r} + '/results.json')",
    "csv": "pandas.read_csv({to!r} + '/captions.csv')",
    "bigquery": "{quoted}/load.sh DATASET.TABLE",
}


@dataclass
class Chosen:
    """The captions to export, as tables of `_ROWS` rows; those marked bad are left out and counted.

    Attributes:
      output: of the job.
      only_edited: those alone that a person has written.
      bad: how many were marked so.
      without_caption: images that have none.
    """

    output: str
    only_edited: bool = False
    bad: int = field(default=0, init=False)
    without_caption: int = field(default=0, init=False)

    def tables(self) -> Iterator[pa.Table]:
        """All of them, once. Raises ExportError where there are none."""
        standing = read_standing(self.output)
        self.without_caption = standing.outcomes.failures.num_rows
        if not standing.outcomes.captions.num_rows:
            raise ExportError(f"no caption stands in {self.output}; is it the --output of a run?")
        for table in standing.captions(_ROWS):
            good = table.filter(pc.fill_null(pc.not_equal(table["correction"], BAD), True))
            self.bad += table.num_rows - good.num_rows
            if self.only_edited:
                good = good.filter(pc.fill_null(pc.equal(good["correction"], EDITED), False))
            yield good.combine_chunks()


def main(arguments: list[str]) -> int:
    """The command; returns its exit code."""
    to = ""
    try:
        args = parse_options(arguments)
        to = args.to
        with contextlib.closing(LeftOut(f"{os.path.abspath(args.to)}.left_out.jsonl")) as left_out:
            with _new_folder(args.to) as folder:
                lines = _export(args, folder, left_out)
            print(printable_lines("\n".join(lines)))
    except ExportError as error:
        print(printable_lines(f"caption-images: {error}"), file=sys.stderr)
        return 2
    except OSError as error:
        print(printable_lines(f"caption-images: cannot write {to}: {error.strerror or error}"), file=sys.stderr)
        return 1
    for line in left_out.lines:
        print(printable_lines(line), file=sys.stderr)
    return 1 if left_out.lines else 0


def _export(args: argparse.Namespace, folder: str, left_out: LeftOut) -> list[str]:
    """Writes everything into `folder`, which is removed where nothing could be; what to tell."""
    chosen = Chosen(args.output, args.only_edited)
    policies, otherwise = _policies(args)
    images = Images(policies, otherwise, left_out, link=args.images == "link", timeout=args.fetch_timeout)
    tables, more = chosen.tables(), []
    if args.format == "csv":
        written, formulas = csv_file.write_csv(tables, folder, args.for_spreadsheets)
        if formulas and not args.for_spreadsheets:
            more = [
                f"{counted(formulas, 'value')} would be a formula in a spreadsheet; for one, add --for_spreadsheets"
            ]
    else:
        written = _write_others(args, tables, folder, images)
    bad = f"; {chosen.bad:,} marked bad left out" if chosen.bad else ""
    failed = f"; {counted(chosen.without_caption, 'image')} without a caption" if chosen.without_caption else ""
    if not written:
        shutil.rmtree(folder)
        return [f"nothing exported, so {args.to} was not made{bad}{failed}"]
    annotations = args.annotations or f"{args.to}/images.json"
    opened = _NEXT[args.format].format(to=args.to, quoted=shlex.quote(args.to), annotations=annotations)
    head = f"{counted(written, 'caption')} in {args.to}{bad}{failed}"
    return [head, *more, *([f"next: {opened}"] if opened else [])]


def _write_others(args: argparse.Namespace, tables: Iterator[pa.Table], folder: str, images: Images) -> int:
    if args.format == "bigquery":
        return write_bigquery(tables, folder)
    if args.format == "coco":
        return write_coco(tables, folder, args.annotations, images.left_out)
    if args.format == "webdataset":
        return write_webdataset(tables, folder, images, args.max_rows, args.max_bytes)
    if args.format == "sidecar":
        return write_sidecars(tables, folder, images, args.root, args.suffix, texts_only=args.images == "none")
    if args.images == "embed":
        return write_with_images(tables, folder, images, args.max_rows, args.max_bytes)
    return write_imagefolder(tables, folder, images)


def _policies(args: argparse.Namespace) -> tuple[dict[str, Allowed], Allowed]:
    """What the rows of each run may be read from: what the run could, by its note, and what this command allows.

    The second is for rows whose run has no note any more.
    """

    def with_options(config: JobConfig) -> Allowed:
        extended = dataclasses.replace(
            config,
            allow_schemes=(*config.allow_schemes, *args.allow_schemes),
            allow_root=(*config.allow_root, *args.allow_root),
            allow_buckets=(*config.allow_buckets, *args.allow_buckets),
            allow_private_addresses=config.allow_private_addresses or args.allow_private_addresses,
        )
        return extended.allowed

    try:
        policies = {
            run.run_id: with_options(JobConfig.from_request(note.request, args.output))
            for run, note in read_runs(args.output).items()
        }
        return policies, with_options(JobConfig(inputs=(), output=args.output))
    except ValueError as error:  # of --allow_...
        raise ExportError(str(error)) from error


@contextlib.contextmanager
def _new_folder(to: str) -> Iterator[str]:
    """A folder beside `to` that takes its name when it is whole; it is removed where it does not come to that.

    Raises:
      ExportError: something is there already.
      OSError: it cannot be made.
    """
    to = os.path.abspath(to)
    if os.path.lexists(to) and not (os.path.isdir(to) and not os.listdir(to)):
        raise ExportError(f"--to={to} is there and not empty; name a new folder, or remove it first")
    parent, name = os.path.split(to)
    os.makedirs(parent, exist_ok=True)
    folder = os.path.join(parent, f".{name}.{uuid.uuid4().hex[:8]}.partial")
    os.mkdir(folder)
    try:
        yield folder
        if os.path.exists(folder):
            os.rename(folder, to)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
