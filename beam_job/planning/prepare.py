"""Before the pipeline: which images to caption, in a new run or in one that was interrupted."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from beam_job.config import JobConfig
from beam_job.planning.damage import is_damaged, warn
from beam_job.planning.listed_inputs import Listing
from beam_job.planning.new_images import Selection
from beam_job.planning.plan import Plan, check_plan, delete_plan, write_plan
from beam_job.planning.recorded_config import request_of
from beam_job.planning.run import Run, RunManifest, read_runs
from beam_job.storage import StorageError


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
    runs = read_runs(config.output, on_damaged=lambda _: None)  # `find_resumable_run` has warned of them
    new = Selection(config, listing, runs, manifest)
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
    return RunManifest(model_version, decoding, request_of(config), 0, 0, 0, limits, prompts)
