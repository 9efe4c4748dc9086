"""Where a run's files lie, and what it notes of itself when it starts."""

from __future__ import annotations

import dataclasses
import datetime
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from beam_job.storage import Storage, StorageError, join, storage_for


@dataclass(frozen=True)
class Run:
    """Where a run's files lie.

    Attributes:
      output: the job's output folder, shared by all runs.
      run_id: time of the start in UTC to the millisecond, so that names sort by age, and some letters that keep apart
        two runs of the same moment.
    """

    output: str
    run_id: str

    @classmethod
    def new(cls, output: str) -> Run:
        """A run that starts now."""
        time = datetime.datetime.now(datetime.timezone.utc)
        return cls(output, f"{time:%Y%m%dT%H%M%S}{time.microsecond // 1000:03}Z-{secrets.token_hex(4)}")

    @property
    def storage(self) -> Storage:
        """Where `output` lies."""
        return storage_for(self.output)

    @property
    def folder(self) -> str:
        """Plan, summary and success mark."""
        return join(self.output, "runs", self.run_id)

    @property
    def planning(self) -> str:
        """Files that a large plan is made from, removed when it stands."""
        return join(self.folder, "planning")

    def plan_part(self, number: int) -> str:
        """A file of the plan."""
        return join(self.folder, "plan", f"part-{number:05d}.parquet")

    @property
    def manifest(self) -> str:
        """The note's file; it is written after the plan, so where it stands the plan is whole."""
        return join(self.folder, "run.json")

    @property
    def summary(self) -> str:
        """The summary's file; where it stands the run has ended."""
        return join(self.folder, "summary.json")

    @property
    def success(self) -> str:
        """An empty file, the last to be written."""
        return join(self.folder, "_SUCCESS")

    @property
    def page(self) -> str:
        """The review page."""
        return join(self.folder, "index.html")

    @property
    def captions_folder(self) -> str:
        """All captions of the run."""
        return join(self.output, "captions", f"run={self.run_id}")

    def captions(self, shard: int) -> str:
        """The captions of a shard; the file stands for the whole shard's being done."""
        return self._part("captions", shard)

    def failures(self, shard: int) -> str:
        """The failures of a shard."""
        return self._part("failures", shard)

    def _part(self, table: str, shard: int) -> str:
        return join(self.output, table, f"run={self.run_id}", f"part-{shard:05d}.parquet")


@dataclass(frozen=True)
class RunManifest:
    """`run.json`: what a later run must know of this one.

    Attributes:
      model: version of the model.
      decoding: how words were chosen; with `model` it tells whose captions can stand for whose.
      request: inputs and filters; a killed run is continued by the same request.
      inputs: images of the plan.
      shards: shards of the plan.
      skipped: images that were listed and had been done before.
    """

    model: str
    decoding: Mapping[str, Any]
    request: Mapping[str, Any]
    inputs: int
    shards: int
    skipped: int

    def captions_like(self, other: RunManifest) -> bool:
        """Whether both runs would give an image the same caption."""
        return self.model == other.model and self.decoding == other.decoding

    def to_json(self) -> bytes:
        """The file's content."""
        return (json.dumps(dataclasses.asdict(self), indent=2) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes) -> RunManifest:
        """What `to_json` wrote."""
        return cls(**json.loads(content))


def read_runs(output: str) -> dict[Run, RunManifest]:
    """All runs of an output that have begun, the oldest first.

    Raises:
      StorageError: a note cannot be read.
    """
    storage = storage_for(output)
    notes = [stored.uri for stored in storage.list(join(output, "runs")) if stored.uri.endswith("/run.json")]
    runs = [Run(output, uri.split("/")[-2]) for uri in sorted(notes)]
    return {run: read_manifest(run) for run in runs}


def read_manifest(run: Run) -> RunManifest:
    """What the run noted of itself.

    Raises:
      StorageError: it cannot be read.
    """
    content, _ = run.storage.read(run.manifest)
    try:
        return RunManifest.from_json(content)
    except (ValueError, TypeError) as error:
        raise StorageError(
            f"{run.manifest} is damaged ({error}); remove the folder {run.folder} to forget the run"
        ) from error
