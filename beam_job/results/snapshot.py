"""`snapshot`: writes the current row of each URI and the current failures as compact Parquet."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from beam_job.output.formats import PARQUET_FORMAT
from beam_job.output.tables import mark_low_scores
from beam_job.results.arguments import OutputParser, UsageError, refuse_wrong_usage, report_left_out, whole_number
from beam_job.results.corrections import BAD, EDITED
from beam_job.results.current_results import CurrentResults, read_current_results
from beam_job.results.latest_rows import Part
from beam_job.results.missing import (
    MissingImagesError,
    add_missing,
    check_missing,
    format_missing,
    report_missing,
    without_missing,
)
from beam_job.results.places import check_apart
from beam_job.results.readable_runs import read_readable_runs
from beam_job.results.snapshot_files import FOLDERS, StagedFiles, check_replaceable, replace_snapshot
from beam_job.storage import join
from beam_job.storage.parquet import parquet_bytes
from beam_job.text import counted
from model.decoding_options import number

_DESCRIPTION = """\
Writes each URI of an output once, with its newest caption, to DIR/data/train-00000-of-0000N.parquet, as
datasets.load_dataset(DIR) expects; URIs without a caption, with the reason, go to DIR/failures/. During a run, the
snapshot contains the shards that are complete. The column `correction` is `edited` if a person wrote the caption (it
has no score then), `bad` if a person rejected it, and null otherwise.

An earlier snapshot in DIR is replaced. DIR/_SNAPSHOT.json lists the files of the snapshot; no other file is overwritten
or deleted. DIR must be outside --output.
"""
_EPILOG = (
    "exit codes: 0 done, 1 damaged files of the output were left out, or images are missing with --missing=fail, "
    "2 wrong usage"
)
MAX_ROWS = 1_000_000
MAX_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Snapshot:
    """The content of a snapshot.

    Attributes:
      captions: rows of `data/`.
      failures: rows of `failures/`.
      edited: captions that people wrote.
      bad: captions that people marked as bad.
      missing: captions that were left out, since their image no longer exists.
      left_out: a line for each file of the output that could not be read.
    """

    captions: int
    failures: int
    edited: int
    bad: int
    missing: int = 0
    left_out: tuple[str, ...] = field(default=())

    def line(self, to: str) -> str:
        """One line that says what was written to the folder `to`."""
        people = f" ({self.edited:,} edited, {self.bad:,} marked bad)" if self.edited or self.bad else ""
        captions, failures = counted(self.captions, "caption"), counted(self.failures, "failure")
        gone = f"; {format_missing(self.missing)} left out" if self.missing else ""
        if self.captions:
            captions += f"{people} in {join(to, FOLDERS[0])}"
        if self.failures:
            failures += f" in {join(to, FOLDERS[1])}"
        return f"{captions}, {failures}{gone}"


def write_snapshot(
    output: str,
    to: str,
    max_rows: int = MAX_ROWS,
    max_bytes: int = MAX_BYTES,
    missing: str = "keep",
    min_score: float | None = None,
) -> Snapshot:
    """Writes the snapshot of an output.

    Args:
      output: the job's output folder.
      to: folder for the snapshot, outside of `output`; an earlier snapshot there is replaced.
      max_rows: rows of a file.
      max_bytes: bytes of a file, estimated by the compressed size of the rows in the output.
      missing: what becomes of captions whose image no longer exists, one of `missing.CHOICES`.
      min_score: where given, `low_confidence` says of all captions whether their score is lower, whatever the runs had.

    Raises:
      UsageError: no run has been started in `output`.
      MissingImagesError: images are missing, and `missing` is "fail".
      ValueError: `max_rows` or `max_bytes` is below 1.
      StorageError: `to` overlaps `output` or holds files that are not a snapshot's, or something cannot be read or
        written.
    """
    for name, value in (("max_rows", max_rows), ("max_bytes", max_bytes)):
        if value < 1:
            raise ValueError(f"{name} must be a whole number from 1, not {value}")
    check_apart(output, to, *FOLDERS)
    check_replaceable(to)
    results = read_current_results(output)
    if not (results.latest.caption_parts or results.latest.left_out or read_readable_runs(output).manifests):
        raise UsageError(f"no run has been started in {output}; is it the --output of a run?")
    gone = check_missing(output, results.latest, missing)
    results = dataclasses.replace(results, latest=without_missing(output, results.latest, gone, missing))
    with StagedFiles() as staged:
        corrections = _stage(results, staged, max_rows, max_bytes, min_score)
        replace_snapshot(to, staged)
    latest = results.latest
    rows = latest.captions.num_rows, latest.failures.num_rows
    return Snapshot(*rows, corrections[EDITED], corrections[BAD], len(gone), latest.left_out)


def _stage(
    results: CurrentResults, staged: StagedFiles, max_rows: int, max_bytes: int, min_score: float | None
) -> Counter[str | None]:
    """Stages all files; returns the captions by their value of `correction`."""
    latest, corrections = results.latest, Counter[str | None]()

    def captions(rows: int) -> Iterator[pa.Table]:
        for table in results.captions(rows):
            corrections.update(table["correction"].to_pylist())
            yield table if min_score is None else mark_low_scores(table, min_score)

    for folder, tables_of, parts, count in (
        (FOLDERS[0], captions, latest.caption_parts, latest.captions.num_rows),
        (FOLDERS[1], results.failures, latest.failure_parts, latest.failures.num_rows),
    ):
        if count:
            rows = _rows_of_a_file(count, parts, max_rows, max_bytes)
            files = -(-count // rows)
            for number, table in enumerate(tables_of(rows)):
                name = f"{folder}/train-{number:05d}-of-{files:05d}.parquet"
                staged.add(name, parquet_bytes(table.replace_schema_metadata(PARQUET_FORMAT)))
    return corrections


def _rows_of_a_file(count: int, parts: Sequence[Part], max_rows: int, max_bytes: int) -> int:
    """Rows of each file, so that all files have about the same size."""
    size = sum(part.stored.size for part in parts)
    files = min(count, max(-(-count // max_rows), -(-size // max_bytes)))
    return -(-count // files)


@refuse_wrong_usage
def main(arguments: list[str]) -> int:
    """The command; returns its exit code: 0 done, 1 without damaged files, which are named on stderr."""
    parser = OutputParser("snapshot", _DESCRIPTION, _EPILOG)
    parser.add_argument("--to", required=True, metavar="DIR", help="folder for the snapshot, local or gs://")
    parser.add_argument(
        "--max_rows",
        type=whole_number,
        default=MAX_ROWS,
        metavar="N",
        help="maximum rows per file (default: %(default)s)",
    )
    parser.add_argument(
        "--max_bytes",
        type=whole_number,
        default=MAX_BYTES,
        metavar="N",
        help="approximate maximum size of a file in bytes (default: %(default)s)",
    )
    parser.add_argument(
        "--min_score",
        type=number,
        metavar="X",
        help="flag all captions with a score below X, such as -1.0, in the column low_confidence (default: as the runs "
        "that wrote them did)",
    )
    add_missing(parser, "keep")
    args = parser.parse_args(arguments)
    if args.min_score is not None and not -math.inf < args.min_score <= 0:
        raise UsageError(f"--min_score must be at most 0, as all scores are, not {args.min_score!r}")
    try:
        snapshot = write_snapshot(args.output, args.to, args.max_rows, args.max_bytes, args.missing, args.min_score)
    except MissingImagesError as error:
        return report_missing(error)
    print(snapshot.line(args.to))
    return report_left_out(snapshot.left_out)
