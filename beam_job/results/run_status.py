"""The runs of an output: the results of each, and whether it is still running."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from beam_job.planning.damage import check_format
from beam_job.planning.lease import LeaseError, current_holder
from beam_job.planning.run import Run, RunManifest
from beam_job.storage import StorageError
from beam_job.text import counted

RUNNING, INTERRUPTED, DONE, FAILED, NOTHING, DAMAGED = (
    "running",
    "not finished",
    "done",
    "too many failures",
    "nothing to do",
    "ended, summary damaged",
)


@dataclass(frozen=True)
class RunStatus:
    """A run.

    Attributes:
      run_id: its name.
      state: one of the constants of this module.
      inputs: images of its plan.
      skipped: images that were done before.
      failed: those of them that had failed for good.
      model: version of the model.
      decoding: options of decoding.
      captions: rows; None while they are unknown.
      failures: rows; None while they are unknown.
      images_per_second: None if unknown.
    """

    run_id: str
    state: str
    inputs: int
    skipped: int
    failed: int
    model: str
    decoding: Mapping[str, Any]
    captions: int | None = None
    failures: int | None = None
    images_per_second: float | None = None

    @property
    def made_with(self) -> str:
        """The model and its decoding options."""
        decoding = ", ".join(f"{name}={value}" for name, value in self.decoding.items() if value is not None)
        return f"model {self.model} ({decoding})"

    @property
    def counts(self) -> str:
        """Its state and its rows."""
        rows = ""
        if self.state in (RUNNING, INTERRUPTED):
            rows = f", {counted(self.inputs, 'image')} planned"
        elif self.captions is not None and self.failures is not None:
            rows = f", {counted(self.captions, 'caption')}, {counted(self.failures, 'failure')}"
        rate = "" if self.images_per_second is None else f", {self.images_per_second} images/s"
        lost = f", {self.failed:,} failed for good before" if self.failed else ""
        return f"{self.state}{rows}, {self.skipped - self.failed:,} already done{lost}{rate}"


def read_run_status(output: str, manifests: Mapping[Run, RunManifest], left_out: list[str]) -> list[RunStatus]:
    """The status of each run, the oldest first; a line for each damaged file is added to `left_out`.

    Raises:
      StorageError: a file is out of reach.
    """
    try:
        is_held = current_holder(output) is not None
    except LeaseError as error:
        left_out.append(str(error))
        is_held = False
    newest = list(manifests)[-1] if manifests else None
    return [_status(run, manifest, is_held and run == newest, left_out) for run, manifest in manifests.items()]


def _status(run: Run, manifest: RunManifest, is_held: bool, left_out: list[str]) -> RunStatus:
    def status(state: str, **rows: Any) -> RunStatus:
        return RunStatus(
            run_id=run.run_id,
            state=state,
            inputs=manifest.inputs,
            skipped=manifest.skipped,
            failed=manifest.failed,
            model=manifest.model,
            decoding=manifest.decoding,
            **rows,
        )

    if not manifest.inputs:
        return status(NOTHING)
    if not run.storage.exists(run.summary):
        return status(RUNNING if is_held else INTERRUPTED)
    try:
        rows = _read_summary(run)
    except StorageError as error:
        left_out.append(str(error))
        return status(DAMAGED)
    return status(DONE if run.storage.exists(run.success) else FAILED, **rows)


def _read_summary(run: Run) -> dict[str, Any]:
    content, _ = run.storage.read(run.summary)
    try:
        summary = json.loads(content)
        check_format(run.summary, summary.get("format"))
        rate = summary["images_per_second"]
        numbers = {name: int(summary[name]) for name in ("captions", "failures")}
        return {**numbers, "images_per_second": None if rate is None else float(rate)}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(
            f"{run.summary} is damaged ({error!r}); remove it, and repeat that run's command to write it again"
        ) from error
