"""Before the pipeline: which images to caption, in a new run or in one that was interrupted."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_job.config import JobConfig
from beam_job.inputs.columns import concat_tables
from beam_job.inputs.listing import InputError, list_images
from beam_job.inputs.tars import container_of
from beam_job.planning.completed import completed_parts, exclude_completed, read_completed
from beam_job.planning.damage import is_damaged, warn
from beam_job.planning.keys import URI_BYTES, Keys, KeySet, first_of_each, uri_keys
from beam_job.planning.plan import Plan, check_plan, delete_plan, write_plan
from beam_job.planning.run import Run, RunManifest, read_runs
from beam_job.storage import Allowed, NotAllowedError, StorageError, storage_for
from beam_job.text import counted

_LOGGER = logging.getLogger(__name__)
_LOG_EVERY_S = 5.0
_HELD_BYTES = 128 * 2**20  # of a listing, read before anything is written


@dataclass(frozen=True)
class PlannedRun:
    """A run whose plan is stored.

    Attributes:
      run: where its files are.
      plan: its size.
      skipped: images that were listed but already completed.
      failed: those of them that failed for good.
      retried: images of the plan that have failed before.
      resumed: whether an earlier call of the job began it.
      choice: manifest of a run without images, to be written after its summary (`record_choice`): nothing is new, but
        the newest run had another model or other decoding options, and readers of the output prefer its captions.
    """

    run: Run
    plan: Plan
    skipped: int
    resumed: bool
    choice: RunManifest | None = None
    failed: int = 0
    retried: int = 0


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


def find_resumable_run(config: JobConfig, model_version: str) -> PlannedRun | None:
    """The newest run, if the same request began it and it did not end.

    A run whose plan is damaged is not resumed: what it has written counts, and a new run plans the rest.

    Raises:
      StorageError: the output cannot be read.
    """
    wanted = new_manifest(config, model_version)
    for run, manifest in reversed(read_runs(config.output).items()):
        if not manifest.captions_like(wanted) or manifest.request != wanted.request:
            continue
        if run.storage.exists(run.summary):
            return None
        plan = Plan(manifest.inputs, manifest.shards)
        if not plan.inputs or (manifest.limits and manifest.limits != wanted.limits):
            continue
        try:
            check_plan(run, plan)
        except StorageError as error:
            if not is_damaged(error):
                raise
            warn(error)
            continue
        return PlannedRun(run, plan, manifest.skipped, resumed=True, failed=manifest.failed)
    return None


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


def plan_run(
    config: JobConfig, model_version: str, listing: Listing, check_lease: Callable[[], None] = lambda: None
) -> PlannedRun:
    """Plans a new run of what earlier runs have not completed; the caller holds the output's lease.

    Args:
      config: the job.
      model_version: of the captioner.
      listing: as `list_inputs` gives it.
      check_lease: called before the run becomes visible; raises where the lease is lost.

    Returns:
      the run; where there is nothing to do it has an empty plan, and nothing is stored.

    Raises:
      InputError: the listing breaks off.
      StorageError: the output cannot be read or written.
    """
    manifest = new_manifest(config, model_version)
    runs = read_runs(config.output, on_damaged=_ignore)  # `find_resumable_run` has warned of them
    new = _Selection(config, listing, runs, manifest)
    run = Run.new(config.output)
    try:
        plan = write_plan(run, new.tables(), config.shard_size)
        check_lease()
    except BaseException:
        with contextlib.suppress(StorageError):  # the first error counts
            delete_plan(run)
        raise
    skipped = new.distinct - plan.inputs
    manifest = dataclasses.replace(manifest, inputs=plan.inputs, shards=plan.shards, skipped=skipped, failed=new.failed)
    if plan.inputs:
        run.storage.write(run.manifest, manifest.to_json())
        return PlannedRun(run, plan, skipped, resumed=False, failed=new.failed, retried=new.retried)
    newest = next(reversed(runs.values()), manifest)
    choice = None if newest.captions_like(manifest) else manifest
    return PlannedRun(run, plan, skipped, False, choice, new.failed)


def record_choice(planned: PlannedRun) -> None:
    """Writes the manifest of a run without images, with which the run becomes visible; see `PlannedRun.choice`."""
    assert planned.choice is not None
    planned.run.storage.write(planned.run.manifest, planned.choice.to_json())


def count_new(config: JobConfig, manifest: RunManifest, listing: Listing, keep: int = 0) -> NewImages:
    """What a run like `manifest` would do with `listing`, and the first `keep` images; nothing is written.

    Raises:
      InputError: the listing breaks off.
      StorageError: the output cannot be read.
    """
    new = _Selection(config, listing, read_runs(config.output, on_damaged=_ignore), manifest)
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


def new_manifest(config: JobConfig, model_version: str) -> RunManifest:
    """The manifest of a run that is not planned yet."""
    # A captioner of the user's own may use any option; of the others it is known which ones have an effect.
    is_own = config.captioner and not config.is_named
    decoding = dataclasses.asdict(config.decoding) if is_own else config.decoding.effective_options
    if config.is_named:
        decoding |= {"max_new_tokens": config.max_new_tokens, "max_side": config.max_side}
    limits = {
        "max_pixels": config.max_pixels,
        "min_bytes": config.filters.min_bytes,
        "max_bytes": config.filters.max_bytes,
    }
    prompts = {prompt.name: prompt.text for prompt in config.prompts}
    return RunManifest(model_version, decoding, config.request, 0, 0, 0, limits, prompts)


class _Selection:
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


def _ignore(_: StorageError) -> None:
    """For damage that was reported before."""
