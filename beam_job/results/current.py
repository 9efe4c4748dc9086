"""The rows that stand in an output, with people's corrections: what `snapshot` and `export` both start from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from beam_job.results.corrections import corrected, read_corrections
from beam_job.results.latest_rows import Outcomes, common_schema, read_outcomes, read_rows
from beam_job.storage import StoredObject


@dataclass(frozen=True)
class Standing:
    """What stands for each URI: which rows, and what people said of them."""

    outcomes: Outcomes
    corrections: pa.Table

    def captions(self, rows: int) -> Iterator[pa.Table]:
        """Each URI once, with its newest caption or the person's: tables of `rows` rows and of one schema."""
        for table in _regrouped(self.outcomes.caption_parts, self.outcomes.captions, rows):
            yield corrected(table, self.corrections)

    def failures(self, rows: int) -> Iterator[pa.Table]:
        """Each URI that has none, with the reason."""
        return _regrouped(self.outcomes.failure_parts, self.outcomes.failures, rows)


def read_standing(output: str) -> Standing:
    """What stands in an output; it may be read while a run is under way. Raises StorageError."""
    return Standing(read_outcomes(output), read_corrections(output))


def _regrouped(parts: Sequence[StoredObject], places: pa.Table, rows: int) -> Iterator[pa.Table]:
    """The rows at `places` in tables of `rows` rows and of one schema: what a run did not carry is null."""
    used = pc.unique(places["part"]).to_pylist()
    waiting = common_schema([parts[part] for part in used]).empty_table() if used else None
    for part in used:
        waiting = pa.concat_tables([waiting, read_rows(parts, places, part)], promote_options="permissive")
        while waiting.num_rows >= rows:
            yield waiting.slice(0, rows).combine_chunks()
            waiting = waiting.slice(rows)
    if waiting is not None and waiting.num_rows:
        yield waiting.combine_chunks()
