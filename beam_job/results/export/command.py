"""`export`: an output's current captions, in a format that other tools read."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from beam_job.config import JobConfig
from beam_job.planning.run import Run, RunManifest
from beam_job.results.arguments import refuse_wrong_usage, report_left_out
from beam_job.results.corrections import BAD, EDITED
from beam_job.results.current_results import CurrentResults, read_current_results
from beam_job.results.export.bigquery import write_bigquery
from beam_job.results.export.coco import write_coco
from beam_job.results.export.csv_file import write_csv
from beam_job.results.export.destination import new_folder
from beam_job.results.export.hugging_face import write_imagefolder, write_with_images
from beam_job.results.export.images import ImageFetcher
from beam_job.results.export.left_out import LeftOut
from beam_job.results.export.options import ExportError, parse_options
from beam_job.results.export.sidecar import write_sidecars
from beam_job.results.export.webdataset import write_webdataset
from beam_job.results.missing import (
    MissingImagesError,
    check_missing,
    format_missing,
    report_missing,
    without_missing,
)
from beam_job.results.places import check_apart
from beam_job.results.planned_images import PlannedImages
from beam_job.results.readable_runs import config_of, read_readable_runs
from beam_job.storage import WEB, Allowed, StorageError
from beam_job.text import counted, printable_lines

_ROWS = 1_000  # held in memory at a time

_NEXT = {
    "hf": "datasets.load_dataset({to!r})",
    "webdataset": "webdataset.WebDataset(sorted(glob.glob({tars!r})))",
    "sidecar": "",
    "coco": "COCO({annotations!r}).loadRes({results!r})",
    "csv": "pandas.read_csv({csv!r})",
    "bigquery": "{quoted}/load.sh DATASET.TABLE",
}


@dataclass
class Selection:
    """The captions to export, without those that people marked as bad.

    Attributes:
      results: of the output.
      only_edited: select only the captions that a person has written.
      bad: captions left out because they are marked as bad; counted while `tables` is read.
    """

    results: CurrentResults
    only_edited: bool = False
    bad: int = field(default=0, init=False)

    def tables(self) -> Iterator[pa.Table]:
        """All of them, once, in tables of at most `_ROWS` rows."""
        for table in self.results.captions(_ROWS):
            good = table.filter(pc.fill_null(pc.not_equal(table["correction"], BAD), True))
            self.bad += table.num_rows - good.num_rows
            if self.only_edited:
                good = good.filter(pc.fill_null(pc.equal(good["correction"], EDITED), False))
            yield good.combine_chunks()


@refuse_wrong_usage
def main(arguments: list[str]) -> int:
    """The command; returns its exit code: 0 done, 1 something was left out or could not be written, 2 wrong usage."""
    args = parse_options(arguments)
    try:
        check_apart(args.output, args.to)
        results = read_current_results(args.output)
        damaged = report_left_out(results.latest.left_out)
        if not results.latest.captions.num_rows:
            raise ExportError(f"there is no caption in {args.output}; is it the --output of a run?")
        gone = check_missing(args.output, results.latest, args.missing)
        results = dataclasses.replace(results, latest=without_missing(args.output, results.latest, gone, args.missing))
        with contextlib.closing(LeftOut(args.to)) as left_out:
            with new_folder(args.to) as folder:
                lines = _export(args, results, folder, left_out)
            print(printable_lines("\n".join(lines)))
            if gone:
                print(f"{format_missing(len(gone))} left out")
    except MissingImagesError as error:
        return report_missing(error)
    except OSError as error:
        print(printable_lines(f"caption-images: cannot write {args.to}: {error.strerror or error}"), file=sys.stderr)
        return 1
    for line in left_out.lines:
        print(printable_lines(line), file=sys.stderr)
    return 1 if left_out.lines or damaged else 0


def _export(args: argparse.Namespace, results: CurrentResults, folder: str, left_out: LeftOut) -> list[str]:
    """Writes everything into `folder`, or removes it if there is nothing to write; returns the lines to print."""
    selection = Selection(results, args.only_edited)
    written, hints = _write(args, selection.tables(), folder, left_out)
    without_caption = results.latest.failures.num_rows
    bad = f"; {selection.bad:,} marked bad left out" if selection.bad else ""
    failed = f"; {counted(without_caption, 'image')} without a caption" if without_caption else ""
    if not written:
        shutil.rmtree(folder)
        return [f"nothing to export, so {args.to} was not written{bad}{failed}"]
    annotations = args.annotations or f"{args.to}/images.json"
    inside = {"tars": f"{args.to}/*.tar", "results": f"{args.to}/results.json", "csv": f"{args.to}/captions.csv"}
    opened = _NEXT[args.format].format(to=args.to, quoted=shlex.quote(args.to), annotations=annotations, **inside)
    head = f"{counted(written, 'caption')} in {args.to}{bad}{failed}"
    return [head, *hints, *([f"next: {opened}"] if opened else [])]


def _write(
    args: argparse.Namespace, tables: Iterator[pa.Table], folder: str, left_out: LeftOut
) -> tuple[int, list[str]]:
    """Writes the format that was asked for; returns the number of captions, and hints for the user."""
    runs = read_readable_runs(args.output).manifests
    policies, otherwise = _policies(args, runs)
    planned, link = PlannedImages(runs), args.images == "link"
    images = ImageFetcher(policies, otherwise, left_out, planned, link, timeout=args.fetch_timeout)
    if args.format == "csv":
        written, formulas = write_csv(tables, folder, args.for_spreadsheets)
        hint = (
            f"a spreadsheet would read {counted(formulas, 'value')} as formulas; add --for_spreadsheets to prevent that"
        )
        return written, [hint] if formulas and not args.for_spreadsheets else []
    if args.format == "bigquery":
        return write_bigquery(tables, folder), []
    if args.format == "coco":
        return write_coco(tables, folder, args.annotations, left_out), []
    if args.format == "webdataset":
        return write_webdataset(tables, folder, images, args.max_rows, args.max_bytes), []
    if args.format == "sidecar":
        return write_sidecars(tables, folder, images, args.root, args.suffix, texts_only=args.images == "none"), []
    if args.images == "embed":
        return write_with_images(tables, folder, images, args.max_rows, args.max_bytes), []
    return write_imagefolder(tables, folder, images), []


def _policies(args: argparse.Namespace, runs: Mapping[Run, RunManifest]) -> tuple[dict[str, Allowed], Allowed]:
    """The places that the rows of each run may be read from: those of its manifest and of this command's options.

    The second value is for rows of runs whose manifest is missing or damaged.

    Raises:
      ExportError: a value of an --allow_... option is wrong.
    """

    def with_options(config: JobConfig) -> Allowed:
        # Rows that somebody has added to the output are in no list of the user's; of those that are, the plan knows it.
        web = WEB if config.trusts_a_list else ()
        extended = dataclasses.replace(
            config,
            allow_schemes=(*config.allow_schemes, *web, *args.allow_schemes),
            allow_root=(*config.allow_root, *args.allow_root),
            allow_buckets=(*config.allow_buckets, *args.allow_buckets),
            allow_private_addresses=config.allow_private_addresses or args.allow_private_addresses,
        )
        return extended.allowed

    try:
        otherwise = with_options(JobConfig(inputs=(), output=args.output))
        policies = {}
        for run, manifest in runs.items():
            with contextlib.suppress(StorageError):  # `otherwise` then
                policies[run.run_id] = with_options(config_of(run, manifest))
    except ValueError as error:
        raise ExportError(str(error)) from error
    return policies, otherwise
