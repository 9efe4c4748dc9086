"""Before the pipeline: which images are to be captioned, in a new run or in one that was interrupted."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from beam_job.config import JobConfig
from beam_job.inputs.listing import InputError, list_images
from beam_job.inputs.tars import container_of
from beam_job.planning.completed import completed_parts, read_completed, exclude_completed
from beam_job.planning.plan import Plan, first_of_each_uri, write_plan
from beam_job.planning.run import Run, RunManifest, read_runs
from beam_job.storage import Allowed, NotAllowedError, StorageError, storage_for
from beam_job.text import counted

if TYPE_CHECKING:
    import apache_beam as beam

# Builds a graph into the pipeline that it is given, runs it, and returns the job's counters by name.
RunGraph = Callable[[Callable[["beam.Pipeline"], None]], Mapping[str, int]]
_TELL_EVERY_S = 5.0


@dataclass(frozen=True)
class PlannedRun:
    """A run whose plan is stored.

    Attributes:
      run: where its files lie.
      plan: its size.
      skipped: images that were listed and had been done before.
      resumed: whether an earlier call of the job began it.
    """

    run: Run
    plan: Plan
    skipped: int
    resumed: bool


@dataclass(frozen=True)
class Listing:
    """What the request names.

    Attributes:
      held: the first batches, in memory.
      rest: those that are still to come where there are too many for memory; None where `held` is all.
    """

    held: Sequence[pa.RecordBatch]
    rest: Iterator[pa.RecordBatch] | None

    @property
    def rows(self) -> int:
        """Of the batches in memory."""
        return sum(batch.num_rows for batch in self.held)

    def tables(self) -> Iterator[pa.Table]:
        """All batches, once."""
        for batch in itertools.chain(self.held, self.rest or ()):
            yield pa.Table.from_batches([batch])

    def table(self) -> pa.Table:
        """All of it in memory, each URI once.

        Raises:
          InputError: lists have carried columns of types that do not go together.
        """
        try:
            return first_of_each_uri(pa.concat_tables(self.tables(), promote_options="permissive"))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise InputError(f"--input: the lists' columns do not go together: {error}") from error


def find_resumable_run(config: JobConfig, model_version: str) -> PlannedRun | None:
    """The newest run that the same request began and did not end, if there is one.

    Raises:
      StorageError: the output cannot be read.
    """
    wanted = new_manifest(config, model_version)
    for run, note in reversed(read_runs(config.output).items()):
        same = note.captions_like(wanted) and note.request == wanted.request
        if same and not run.storage.exists(run.summary):
            return PlannedRun(run, Plan(note.inputs, note.shards), note.skipped, resumed=True)
    return None


def list_inputs(config: JobConfig) -> Listing:
    """The images of the request; nothing is written, and no more is held than `config.rows_in_memory` allows.

    Raises:
      InputError: there is nothing to caption where the user pointed, or nothing that may be read.
    """
    batches = list_images(config.inputs, config.uri_column, config.carry_columns)
    rest = _told(config.filters.apply(batches))
    held: list[pa.RecordBatch] = []
    listing = Listing(held, None)
    for batch in rest:
        held.append(batch)
        if listing.rows > config.rows_in_memory:
            listing = Listing(held, rest)
            break
    if not listing.rows:
        raise InputError(f"--input: none of the images listed passes the filters ({config.filters})")
    _refuse_if_none_is_allowed(listing, config.allowed)
    return listing


def plan_run(config: JobConfig, model_version: str, listing: Listing, run_graph: RunGraph) -> PlannedRun:
    """A new run of what earlier runs have not done; to be called with the output's lease in hand.

    Args:
      config: the job.
      model_version: of the captioner.
      listing: as `list_inputs` gives it.
      run_graph: runs a Beam graph to its end; used where images and earlier runs are too many for this machine.

    Returns:
      the run; where nothing is to be done it has an empty plan, of which nothing is stored.

    Raises:
      InputError: the listing breaks off.
      StorageError: the output cannot be read or written.
    """
    note = new_manifest(config, model_version)
    run = Run.new(config.output)
    earlier = _earlier(config, note)
    if listing.rest is None and listing.rows + sum(earlier.values()) <= config.rows_in_memory:
        listed = listing.table()
        todo = _without_done(config, listed, earlier)
        distinct, tables = listed.num_rows, [todo] if todo.num_rows else []
        plan = write_plan(run, tables, config.shard_size)
    else:
        distinct, plan = _plan_in_pipeline(config, run, listing, earlier, run_graph)
    if plan.inputs:
        note = dataclasses.replace(note, inputs=plan.inputs, shards=plan.shards, skipped=distinct - plan.inputs)
        run.storage.write(run.manifest, note.to_json())
    return PlannedRun(run, plan, distinct - plan.inputs, resumed=False)


def todo_of(config: JobConfig, note: RunManifest, listed: pa.Table) -> pa.Table:
    """The rows of `listed` that a run like `note` would caption."""
    return _without_done(config, listed, _earlier(config, note))


def _earlier(config: JobConfig, note: RunManifest) -> Mapping[Run, int]:
    """The runs whose captions can stand for those of a run like `note`, and their images."""
    if config.recaption:
        return {}
    return {run: other.inputs for run, other in read_runs(config.output).items() if other.captions_like(note)}


def _without_done(config: JobConfig, listed: pa.Table, earlier: Iterable[Run]) -> pa.Table:
    return exclude_completed(listed, read_completed(completed_parts(earlier, config.retry)), config.allowed)


def _plan_in_pipeline(
    config: JobConfig, run: Run, listing: Listing, earlier: Mapping[Run, int], run_graph: RunGraph
) -> tuple[int, Plan]:
    """The number of distinct images listed, and the plan of those to be done."""
    from beam_job.planning import difference  # imports Beam, which `status` does without

    try:
        files = difference.write_listing(run, listing.tables())
        print(f"planning {counted(files.rows, 'image')} in a pipeline of its own", file=sys.stderr, flush=True)
        done = completed_parts(earlier, config.retry)
        rows = files.rows + sum(earlier.values())
        counters = run_graph(lambda p: difference.build_difference(p, run, files.uris, done, rows, config.allowed))
        plan = write_plan(run, difference.read_todo(run), config.shard_size)
        return counters[difference.LISTED], plan
    finally:
        difference.remove_planning(run)


def _refuse_if_none_is_allowed(listing: Listing, allowed: Allowed) -> None:
    """Stops a run in which every image would fail for want of an option; where some may be read, the others fail."""
    first: NotAllowedError | None = None
    for uri in (uri.as_py() for batch in listing.held for uri in batch.column("uri")):
        try:
            storage_for(container_of(uri), allowed)
            return
        except NotAllowedError as error:
            first = first or error
        except StorageError:  # no option would help it
            continue
    if first is not None:
        raise InputError(f"--input: none of the images listed may be read; the first of {listing.rows:,}: {first}")


def new_manifest(config: JobConfig, model_version: str) -> RunManifest:
    """Of a run that has not been planned."""
    return RunManifest(model_version, dataclasses.asdict(config.decoding), config.request, 0, 0, 0)


def _told(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same batches, with a word now and then of how far the listing has come."""
    listed, told = 0, time.monotonic()
    for batch in batches:
        listed += batch.num_rows
        if time.monotonic() - told > _TELL_EVERY_S:
            told = time.monotonic()
            print(f"{listed:,} images listed", file=sys.stderr, flush=True)
        yield batch
