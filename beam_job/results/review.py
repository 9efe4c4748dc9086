"""`review`: one page with the current captions of an output, over all its runs, to be checked and corrected."""

from __future__ import annotations

import os
import uuid
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from beam_job.output.page import GENERATOR, MOST_CAPTIONS, SHEET_HEADER, Card, ReviewPage
from beam_job.output.run_page import FAILURE_COLUMNS, MOST_FAILURES, card_rows
from beam_job.output.thumbnails import read_thumbnails, sample_key
from beam_job.results.arguments import OutputParser, UsageError, refuse_wrong_usage, report_left_out
from beam_job.results.corrections import Correction, correction_keys, current_corrections
from beam_job.results.current_results import CurrentResults
from beam_job.results.latest_rows import read_latest_rows
from beam_job.results.places import check_apart
from beam_job.results.readable_runs import read_readable_runs
from beam_job.storage import StorageError, public_name
from beam_job.text import counted

_DESCRIPTION = """\
Writes a page for checking and correcting captions in a browser: like the review page of a run, but for all runs of an
output, with the newest caption of each image, its thumbnail, and the corrections that people made. Thumbnails that
would make the page too large are written next to it, to FILE_pictures/. An earlier page in FILE is replaced.
"""
_EPILOG = "exit codes: 0 done, 1 damaged files of the output were left out, 2 wrong usage"
_ROWS = 10_000
_START = 1_024  # bytes that show what a file is
_NO_CORRECTIONS = pa.schema([("key", pa.string()), ("caption", pa.string()), ("bad", pa.bool_())]).empty_table()


@refuse_wrong_usage
def main(arguments: list[str]) -> int:
    """The command; returns its exit code."""
    parser = OutputParser("review", _DESCRIPTION, _EPILOG)
    parser.add_argument("--to", required=True, type=Path, metavar="FILE", help="the page to write, such as review.html")
    args = parser.parse_args(arguments)
    try:
        check_apart(args.output, str(args.to))
        return _write(args.output, args.to)
    except OSError as error:
        raise UsageError(f"--to={args.to} cannot be written: {error.strerror or error}") from error
    except StorageError as error:
        raise UsageError(str(error)) from error


def _write(output: str, to: Path) -> int:
    latest = read_latest_rows(output)
    if not (latest.captions.num_rows or latest.failures.num_rows or latest.left_out):
        raise UsageError(f"there is no caption in {output}; is it the --output of a run?")
    page = _page(output, CurrentResults(latest, _NO_CORRECTIONS))
    pictures = _pictures(output, {card.id for card in page.cards})
    text, sheets = page.files(pictures, f"{to.stem}_pictures")
    files = {to.parent / name: content for name, content in sheets.items()} | {to: text.encode("utf-8", "replace")}
    for path in files:
        _check_replaceable(path)
    for path, content in files.items():
        _replace(path, content)
    print(f"{to}: {counted(len(page.cards), 'caption')}, {counted(page.failed, 'failure')}")
    return report_left_out(latest.left_out)


def _page(output: str, results: CurrentResults) -> ReviewPage:
    corrections = _corrections(output)
    rows = [row for table in results.captions(_ROWS) for row in card_rows(table).to_pylist()]
    rows.sort(key=lambda row: sample_key(row["uri"]))
    cards = [Card.of_row(row, _correction_of(row, corrections)) for row in rows[:MOST_CAPTIONS]]
    failures = list(_failures(results))
    return ReviewPage(public_name(output), cards, len(rows), failures[:MOST_FAILURES], len(failures))


def _corrections(output: str) -> dict[tuple[str, str], Correction]:
    return {key: one for one in current_corrections(output).values() for key in correction_keys(*one.key)}


def _correction_of(row: Mapping[str, Any], corrections: Mapping[tuple[str, str], Correction]) -> dict[str, Any] | None:
    keys = correction_keys(row["uri"], row["object_version"] or "")
    found = next((corrections[key] for key in keys if key in corrections), None)
    if found is None or not (found.bad or found.caption is not None):
        return None
    return {"bad": True} if found.caption is None else {"caption": found.caption}


def _failures(results: CurrentResults) -> Iterator[dict[str, str]]:
    for table in results.failures(_ROWS):
        for row in table.select(FAILURE_COLUMNS).to_pylist():
            yield row | {"uri": public_name(row["uri"])}


def _pictures(output: str, wanted: Collection[str]) -> dict[str, bytes]:
    """The newest picture of each of these images."""
    pictures: dict[str, bytes] = {}
    for run in read_readable_runs(output).manifests:
        thumbnails = read_thumbnails(run)
        new = zip(thumbnails["id"].to_pylist(), thumbnails["jpeg"].to_pylist(), strict=True)
        pictures.update((name, jpeg) for name, jpeg in new if name in wanted)
    return pictures


def _check_replaceable(path: Path) -> None:
    """Raises UsageError if there is something that this command did not write."""
    if not os.path.lexists(path):
        return
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(_START)
        if any(mark in start for mark in (GENERATOR.encode(), SHEET_HEADER)):
            return
    raise UsageError(f"{path} exists and is not a review page; choose another --to")


def _replace(path: Path, content: bytes) -> None:
    """Writes a file in one step, at the end of a link that leads to it."""
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
