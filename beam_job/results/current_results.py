"""The current caption or failure of each URI, with people's corrections: what `snapshot` and `export` start from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from beam_job.inputs.columns import common_schema, fitted
from beam_job.results.corrections import corrected, read_corrections
from beam_job.results.latest_rows import LatestRows, Part, read_latest_rows, read_rows


@dataclass(frozen=True)
class CurrentResults:
    """The latest row of each URI, and the corrections that apply to it."""

    latest: LatestRows
    corrections: pa.Table

    def captions(self, rows: int) -> Iterator[pa.Table]:
        """Each URI once, with its current caption or the person's: tables of `rows` rows and of one schema."""
        for table in _regrouped(self.latest.caption_parts, self.latest.captions, rows):
            yield corrected(table, self.corrections)

    def failures(self, rows: int) -> Iterator[pa.Table]:
        """Each URI without a caption, with the reason."""
        return _regrouped(self.latest.failure_parts, self.latest.failures, rows)


def read_current_results(output: str) -> CurrentResults:
    """Reads an output; a run may be under way.

    Raises:
      StorageError: the output or its corrections cannot be read.
    """
    return CurrentResults(read_latest_rows(output), read_corrections(output))


def _regrouped(parts: Sequence[Part], positions: pa.Table, rows: int) -> Iterator[pa.Table]:
    """The rows at `positions` in tables of `rows` rows and of one schema."""
    used = pc.unique(positions["part"]).to_pylist()
    if not used:
        return
    schema = common_schema([parts[part].schema for part in used])
    waiting = schema.empty_table()
    for part in used:
        waiting = pa.concat_tables([waiting, fitted(read_rows(parts, positions, part), schema)])
        while waiting.num_rows >= rows:
            yield waiting.slice(0, rows).combine_chunks()
            waiting = waiting.slice(rows)
    if waiting.num_rows:
        yield waiting.combine_chunks()
