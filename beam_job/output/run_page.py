"""The review page of a run, `index.html` in the run's folder."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from beam_job.output.formats import open_part
from beam_job.output.page import MOST_CAPTIONS, Card, ReviewPage
from beam_job.output.summary import Summary
from beam_job.output.tables import LOW_CONFIDENCE
from beam_job.output.thumbnails import read_thumbnails, sample_key
from beam_job.planning.run import Run, is_part
from beam_job.storage import StorageError, join, public_name
from beam_job.text import printable

_LOGGER = logging.getLogger(__name__)
MOST_FAILURES = 1_000  # rows shown; the counts include all
FAILURE_COLUMNS = ["uri", "stage", "error_type", "error_message"]


def write_page(run: Run, summary: Summary) -> str | None:
    """Writes the page and returns its URI; None, and a warning in the log, if it failed, since the run is complete."""
    try:
        thumbnails = read_thumbnails(run)
        pictures = dict(zip(thumbnails["id"].to_pylist(), thumbnails["jpeg"].to_pylist(), strict=True))
        text, sheets = _page(run, summary, thumbnails).files(pictures, "pictures")
        for name, content in sheets.items():
            run.storage.write(join(run.folder, name), content)
        run.storage.write(run.page, text.encode("utf-8", "replace"))
        return run.page
    except (StorageError, pa.ArrowException, OSError, ValueError) as error:
        _LOGGER.warning(f"the review page could not be written: {printable(str(error))}")
        return None


def _page(run: Run, summary: Summary, thumbnails: pa.Table) -> ReviewPage:
    complete = summary.captions <= MOST_CAPTIONS
    shown = {name: value for name, value in vars(summary).items() if name not in ("options", "page")}
    return ReviewPage(
        name=run.run_id,
        cards=list(_cards(run)) if complete else list(_pictured(thumbnails)),
        captions=summary.captions,
        failures=list(_failures(run, summary.failures)),
        failed=summary.failures,
        summary=shown | {"ran_with": [dataclasses.asdict(found) for found in summary.ran_with]},
    )


def _cards(run: Run) -> Iterator[Card]:
    """All captions of the run, in an order that looks random and is the same in each run."""
    rows = [
        row
        for stored in run.storage.list(run.captions_folder)
        if is_part(stored.uri)
        for row in card_rows(open_part(stored.uri).read()).to_pylist()
    ]
    yield from map(Card.of_row, sorted(rows, key=lambda row: sample_key(row["uri"])))


def card_rows(captions: pa.Table) -> pa.Table:
    """The columns of a captions table that cards need."""
    optional = [name for name in ("captions", LOW_CONFIDENCE) if name in captions.column_names]
    return captions.select(["uri", "caption", "score", "object_version", *optional])


def _pictured(thumbnails: pa.Table) -> Iterator[Card]:
    """The captions with a picture: a sample, and the lowest scores."""
    for row in thumbnails.sort_by("place")[:MOST_CAPTIONS].to_pylist():
        version = row["object_version"]
        yield Card(row["id"], row["name"], row["caption"], row["score"], version, version is not None)


def _failures(run: Run, count: int) -> Iterator[dict[str, str]]:
    """The first failures, in the order of the shards."""
    left = min(count, MOST_FAILURES)
    parts = (stored.uri for stored in run.storage.list(run.failures_folder) if is_part(stored.uri))
    for part in parts if left else ():
        rows: Sequence[dict[str, Any]] = open_part(part).read(columns=FAILURE_COLUMNS)[:left].to_pylist()
        yield from (row | {"uri": public_name(row["uri"])} for row in rows)
        left -= len(rows)
        if not left:
            return
