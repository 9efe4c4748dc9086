"""Before the pipeline: which images are to be captioned, in a new run or in one that was killed."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from beam_job.config import JobConfig
from beam_job.done import read_done, without_done
from beam_job.inputs import InputError, list_images
from beam_job.plan import Plan, first_of_each_uri, write_plan
from beam_job.run import Run, RunNote, read_runs

_TELL_EVERY_S = 5.0


@dataclass(frozen=True)
class Prepared:
    """A run whose plan is stored.

    Attributes:
      run: where its files lie.
      plan: its size.
      skipped: images that were listed and had been done before.
      continued: whether an earlier call of the job began it.
    """

    run: Run
    plan: Plan
    skipped: int
    continued: bool


def killed_run(config: JobConfig, model_version: str) -> Prepared | None:
    """The newest run that the same request began and did not end, if there is one.

    Raises:
      StorageError: the output cannot be read.
    """
    wanted = _note(config, model_version)
    for run, note in reversed(read_runs(config.output).items()):
        same = note.captions_like(wanted) and note.request == wanted.request
        if same and not run.storage.exists(run.summary):
            return Prepared(run, Plan(note.inputs, note.shards), note.skipped, continued=True)
    return None


def list_request(config: JobConfig) -> pa.Table:
    """All images of the request, each URI once; nothing is written.

    Raises:
      InputError: there is nothing to caption where the user pointed.
    """
    batches = list_images(config.inputs, config.uri_column, config.carry_columns)
    kept = list(_told(config.filters.apply(batches)))
    if not any(batch.num_rows for batch in kept):
        raise InputError(f"--input: none of the images listed passes the filters ({config.filters})")
    return first_of_each_uri(_one_table(kept))


def plan_run(config: JobConfig, model_version: str, listed: pa.Table) -> Prepared:
    """A new run of what earlier runs have not done; to be called with the output's lease in hand.

    Args:
      config: the job.
      model_version: of the captioner.
      listed: as `list_request` gives it.

    Returns:
      the run; where nothing is to be done it has an empty plan, of which nothing is stored.

    Raises:
      StorageError: the output cannot be read or written.
    """
    note = _note(config, model_version)
    todo = todo_of(config, note, listed)
    skipped = listed.num_rows - todo.num_rows
    run = Run.new(config.output)
    if not todo.num_rows:
        return Prepared(run, Plan(0, 0), skipped, continued=False)
    plan = write_plan(run, todo, config.shard_size)
    note = dataclasses.replace(note, inputs=plan.inputs, shards=plan.shards, skipped=skipped)
    run.storage.write(run.note, note.to_json())
    return Prepared(run, plan, skipped, continued=False)


def todo_of(config: JobConfig, note: RunNote, listed: pa.Table) -> pa.Table:
    """The rows of `listed` that a run like `note` would caption."""
    if config.recaption:
        return listed
    earlier = [run for run, other in read_runs(config.output).items() if other.captions_like(note)]
    return without_done(listed, read_done(earlier, config.retry))


def _note(config: JobConfig, model_version: str) -> RunNote:
    return RunNote(model_version, dataclasses.asdict(config.decoding), config.request, 0, 0, 0)


def _one_table(batches: Iterable[pa.RecordBatch]) -> pa.Table:
    tables = [pa.Table.from_batches([batch]) for batch in batches]
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"--input: the lists' columns do not go together: {error}") from error


def _told(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same batches, with a word now and then of how far the listing has come."""
    listed, told = 0, time.monotonic()
    for batch in batches:
        listed += batch.num_rows
        if time.monotonic() - told > _TELL_EVERY_S:
            told = time.monotonic()
            print(f"{listed:,} images listed", file=sys.stderr, flush=True)
        yield batch
