"""The review page of a run, `index.html`: one file that requests nothing from any host.

The data is JSON in a script element that is not executed; the page's own script adds it to the document as text. The
Content-Security-Policy allows this one script and embedded pictures, so no caption or file name can run code.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import math
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from beam_job.output.formats import open_part
from beam_job.output.summary import Summary
from beam_job.output.thumbnails import LOWEST, SCHEMA, SHARDS_WITH_LOWEST, read_thumbnails
from beam_job.planning.run import Run
from beam_job.storage import StorageError, join, public_name
from beam_job.text import printable

_LOGGER = logging.getLogger(__name__)
_FAILURES = 200  # rows shown; the counts include all
_FAILURE_COLUMNS = ["uri", "stage", "error_type", "error_message"]


def write_page(run: Run, shards: int, summary: Summary, samples: int) -> str | None:
    """Writes the page and returns its URI; None, and a warning in the log, if it failed, since the run is complete."""
    try:
        run.storage.write(run.page, page(run, shards, summary, samples).encode("utf-8", "replace"))
        return run.page
    except (StorageError, pa.ArrowException, OSError, ValueError) as error:
        _LOGGER.warning(f"the review page could not be written: {printable(str(error))}")
        return None


def page(run: Run, shards: int, summary: Summary, samples: int) -> str:
    """The page's text.

    Args:
      run: that has ended.
      shards: number of the run's shards.
      summary: the run's.
      samples: captions to show with their pictures, beside the lowest scores and the failures.
    """
    thumbnails = pa.concat_tables([SCHEMA.empty_table(), *read_thumbnails(run)])
    sampled = thumbnails.sort_by("place")[:samples]
    lowest = thumbnails.filter(pc.field("score").is_valid()).sort_by("score")[:LOWEST]
    both = pa.concat_tables([sampled, lowest]).to_pylist()
    cards = {row["id"]: _card(row) for row in both}
    shown = {
        "run": run.run_id,
        "summary": {name: value for name, value in vars(summary).items() if name not in ("options", "page")}
        | {"ran_with": [vars(found) for found in summary.ran_with]},
        "cards": list(cards.values()),
        "sample": [row["id"] for row in both[: len(sampled)]],
        "lowest": [row["id"] for row in both[len(sampled) :]],
        "shards_with_lowest": min(shards, SHARDS_WITH_LOWEST),
        "shards": shards,
        "failures": list(_failures(run, summary.failures)),
    }
    script, style = _file("page.js"), _file("page.css")
    parts = {
        "@POLICY@": f"default-src 'none'; img-src data:; script-src '{_checksum(script)}'; "
        f"style-src '{_checksum(style)}'; base-uri 'none'; form-action 'none'",
        "@STYLE@": style,
        "@SCRIPT@": script,
        "@DATA@": _escaped(json.dumps(shown, default=float, allow_nan=False)),
    }
    text = _file("page.html")
    for name, part in parts.items():
        before, after = text.split(name)
        text = before + part + after
    return text


def _card(row: dict[str, Any]) -> dict[str, Any]:
    """A caption as the page's script reads it; one without a version cannot be corrected on the page."""
    score = row["score"]
    return {
        "id": row["id"],
        "uri": row["name"],
        "caption": row["caption"],
        "score": None if score is None or not math.isfinite(score) else round(score, 2),
        "version": row["object_version"],
        "picture": base64.b64encode(row["jpeg"]).decode(),
    }


def _failures(run: Run, count: int) -> Iterator[dict[str, str]]:
    """The first failures, in the order of the shards."""
    left = min(count, _FAILURES)
    folder = join(run.output, "failures", f"run={run.run_id}")
    for stored in run.storage.list(folder) if left else ():
        rows: Sequence[dict[str, str]] = open_part(stored.uri).read(columns=_FAILURE_COLUMNS)[:left].to_pylist()
        yield from (row | {"uri": public_name(row["uri"])} for row in rows)
        left -= len(rows)
        if not left:
            return


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _checksum(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def _escaped(text: str) -> str:
    """JSON that cannot end its script element."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
