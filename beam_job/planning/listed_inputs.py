"""Lists the images that `--input` names and that pass the filters.

The first of them are listed before anything is written, so that wrong inputs are refused in time.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from beam_job.config import JobConfig
from beam_job.inputs.listing import InputError, list_images
from beam_job.inputs.tars import container_of
from beam_job.storage import Allowed, NotAllowedError, StorageError, storage_for

_LOGGER = logging.getLogger(__name__)
_LOG_EVERY_S = 5.0
_HELD_BYTES = 128 * 2**20  # of a listing, read before anything is written


@dataclass(frozen=True)
class Listing:
    """The images that the configuration names.

    Attributes:
      held: the first batches, in memory.
      rest: the batches still to be listed.
    """

    held: Sequence[pa.RecordBatch]
    rest: Iterator[pa.RecordBatch]

    def tables(self) -> Iterator[pa.Table]:
        """All batches, once."""
        for batch in itertools.chain(self.held, self.rest):
            yield pa.Table.from_batches([batch])


def list_inputs(config: JobConfig) -> Listing:
    """The images of the inputs that pass the filters; the first are listed at once, the others when they are needed.

    Raises:
      InputError: what the user pointed at is not there, or nothing of it may be read.
    """
    listed = 0

    def counted(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        nonlocal listed
        for batch in batches:
            listed += batch.num_rows
            yield batch

    rest = _logged(config.filters.apply(counted(list_images(config.inputs, config.list_options))))
    held: list[pa.RecordBatch] = []
    size = 0
    for batch in rest:
        held.append(batch)
        size += batch.nbytes
        if size > _HELD_BYTES:
            break
    if listed and not held:
        _LOGGER.warning(f"none of the {listed:,} images listed passes the filters ({config.filters.text})")
    _refuse_if_none_is_allowed(held, config.allowed)
    return Listing(held, rest)


def _refuse_if_none_is_allowed(held: Iterable[pa.RecordBatch], allowed: Allowed) -> None:
    """Stops a run in which every image would fail for lack of an option; where some may be read, the others fail."""
    first: NotAllowedError | None = None
    listed = 0
    columns = ["uri", "list_error", "parquet_place", "is_trusted"]
    for row in (row for batch in held for row in batch.select(columns).to_pylist()):
        listed += 1
        if row["parquet_place"] is not None:
            return
        if row["list_error"] is not None:
            continue
        try:
            storage_for(container_of(row["uri"]), allowed.of(row["is_trusted"]))
            return
        except NotAllowedError as error:
            first = first or error
        except StorageError:  # no option would help
            continue
    if first is not None:
        raise InputError(f"--input: none of the images listed may be read; the first of {listed:,}: {first}")


def _logged(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same batches; progress is logged every few seconds."""
    listed, logged = 0, time.monotonic()
    for batch in batches:
        listed += batch.num_rows
        if time.monotonic() - logged > _LOG_EVERY_S:
            logged = time.monotonic()
            _LOGGER.info(f"{listed:,} images listed")
        yield batch
