"""Which of the listed images no earlier run has completed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_job.config import JobConfig
from beam_job.inputs.columns import concat_tables
from beam_job.planning.completed import completed_parts, exclude_completed, read_completed
from beam_job.planning.keys import URI_BYTES, Keys, KeySet, first_of_each, uri_keys
from beam_job.planning.listed_inputs import Listing
from beam_job.planning.run import Run, RunManifest, read_runs
from beam_job.text import counted


@dataclass(frozen=True)
class NewImages:
    """What a new run would do.

    Attributes:
      images: to caption.
      skipped: already completed.
      failed: those of them that failed for good.
      retried: those to caption that have failed before.
      mean_bytes: mean size of those to caption whose size is listed; None where no size is.
      first: the first of them, as rows of a plan.
    """

    images: int
    skipped: int
    mean_bytes: float | None
    failed: int = 0
    retried: int = 0
    first: pa.Table | None = None


def count_new(config: JobConfig, manifest: RunManifest, listing: Listing, keep: int = 0) -> NewImages:
    """What a run like `manifest` would do with `listing`, and the first `keep` images; nothing is written.

    Raises:
      InputError: the listing breaks off.
      StorageError: the output cannot be read.
    """
    runs = read_runs(config.output, on_damaged=lambda _: None)  # damaged runs were reported before
    new = Selection(config, listing, runs, manifest)
    images = known = size = 0
    first: list[pa.Table] = []
    for table in new.tables():
        if images < keep and table.num_rows:
            first.append(table[: keep - images])
        images += table.num_rows
        known += table.num_rows - table["size"].null_count
        size += pc.sum(table["size"]).as_py() or 0
    mean_bytes = size / known if known else None
    kept = concat_tables(first) if first else None
    return NewImages(images, new.distinct - images, mean_bytes, new.failed, new.retried, kept)


def format_skipped(skipped: int, failed: int) -> str:
    """`31 images already done, 2 failed for good (--retry=all tries them again)`; "" for none."""
    done = f"{counted(skipped - failed, 'image')} already done" if skipped > failed else ""
    lost = f"{failed:,} failed for good (--retry=all tries {'it' if failed == 1 else 'them'} again)" if failed else ""
    return ", ".join(filter(None, [done, lost]))


class Selection:
    """The listed images that no earlier run has completed, each URI once.

    Attributes:
      distinct: distinct URIs that have been listed so far.
      failed: those of them that have failed for good.
      retried: those of them that are tried again after a failure.
    """

    def __init__(
        self, config: JobConfig, listing: Listing, runs: Mapping[Run, RunManifest], manifest: RunManifest
    ) -> None:
        self.distinct = self.failed = self.retried = 0
        self._config = config
        self._listing = listing
        same = {} if config.recaption else {run: other for run, other in runs.items() if other.captions_like(manifest)}
        self._completed = read_completed(completed_parts(same, config.retry, manifest.limits))

    def tables(self) -> Iterator[pa.Table]:
        """The images, once."""
        seen = KeySet(URI_BYTES)
        for table in self._listing.tables():
            keys = uri_keys(table["uri"])
            is_first = first_of_each(keys) & ~seen.contains(keys)
            keys = keys[is_first]
            seen.add(keys)
            self.distinct += len(keys)
            yield self._new_of(table.filter(pa.array(is_first)), keys)

    def _new_of(self, table: pa.Table, keys: Keys) -> pa.Table:
        """The rows of distinct URIs that are not completed; counts the failures among them and among the others."""
        new = exclude_completed(table, self._completed, self._config.allowed, keys)
        new_keys = uri_keys(new["uri"])
        skipped = keys[~np.isin(keys, new_keys)]
        if len(self._completed.failed):
            self.failed += int(self._completed.have_failed(skipped).sum())
        self.retried += int(self._completed.retried.contains(new_keys).sum())
        return new
