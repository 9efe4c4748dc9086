"""The paths of a run's files, and its manifest, which later runs read."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from beam_job.planning.damage import FORMAT, check_format, is_damaged, naming_damage, warn
from beam_job.records import RUN_ID
from beam_job.storage import Storage, StorageError, join, storage_for
from model import Decoding

_DEFAULT_DECODING = dataclasses.asdict(Decoding())
_THREADS = 16
_MANIFEST = re.compile(rf"/runs/{RUN_ID}/run\.json$")
_PART = re.compile(r"/run=[^/]+/part-\d{5,}\.parquet$")


@dataclass(frozen=True)
class Run:
    """Where a run's files are; no other place builds these paths.

    Attributes:
      output: the job's output folder, shared by all runs.
      run_id: time of the start in UTC to the millisecond, so that names sort by age, and random letters, which tell
        two runs of the same moment apart.
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
        """The storage of `output`."""
        return storage_for(self.output)

    @property
    def folder(self) -> str:
        """Manifest, plan, summary, review page and success marker."""
        return join(self.output, "runs", self.run_id)

    @property
    def plan_folder(self) -> str:
        """All files of the plan."""
        return join(self.folder, "plan")

    def plan_part(self, number: int) -> str:
        """A file of the plan."""
        return self._part(self.plan_folder, number)

    @property
    def manifest(self) -> str:
        """`run.json`, written after the plan: where it exists the plan is complete."""
        return join(self.folder, "run.json")

    @property
    def summary(self) -> str:
        """The summary: where it exists the run has ended."""
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
        return self._table("captions")

    @property
    def failures_folder(self) -> str:
        """All failures of the run."""
        return self._table("failures")

    def captions(self, shard: int) -> str:
        """The captions of a shard; where this file exists the shard is committed."""
        return self._part(self.captions_folder, shard)

    def failures(self, shard: int) -> str:
        """The failures of a shard."""
        return self._part(self.failures_folder, shard)

    def _table(self, name: str) -> str:
        return join(table_folder(self.output, name), f"run={self.run_id}")

    @staticmethod
    def _part(folder: str, number: int) -> str:
        return join(folder, f"part-{number:05d}.parquet")


def table_folder(output: str, name: str) -> str:
    """The folder of a table of all runs: "captions" or "failures"."""
    return join(output, name)


def is_part(uri: str) -> bool:
    """Whether a file in the folder of a table is one of a run: not somebody else's, nor left by a killed write."""
    return _PART.search(uri) is not None


def run_id_of(part: str) -> str:
    """The name of the run that wrote this file of a table."""
    return part.split("/")[-2].removeprefix("run=")


@dataclass(frozen=True)
class RunManifest:
    """`run.json`: what a later run must know of this one.

    Attributes:
      model: version of the model.
      decoding: options of decoding that its captions depend on, `Decoding.effective_options`.
      request: inputs and filters; an interrupted run is resumed by the same request.
      inputs: images of the plan.
      shards: shards of the plan.
      skipped: images that were listed but already completed.
      failed: those of them that failed for good; 0 in runs of earlier versions, which did not record them.
      limits: limits in force, by name; an image that failed for one is tried again only where it is less strict. Empty
        in runs of earlier versions, which did not record them.
      prompts: their texts by name, in the order of the captions; empty without prompts.
      format: of the file; 0 in runs of earlier versions.
    """

    model: str
    decoding: Mapping[str, Any]
    request: Mapping[str, Any]
    inputs: int
    shards: int
    skipped: int
    limits: Mapping[str, int | None] = field(default_factory=dict)
    prompts: Mapping[str, str] = field(default_factory=dict)
    failed: int = 0
    format: int = FORMAT

    def captions_like(self, wanted: RunManifest) -> bool:
        """Whether this run's captions are those that a run with the manifest `wanted` would write.

        Only the options in `wanted` count, and one that this manifest lacks had its default value.
        """
        same_prompts = list(self.prompts.items()) == list(wanted.prompts.items())
        return (self.model == wanted.model and same_prompts) and all(
            self.decoding.get(name, _DEFAULT_DECODING.get(name)) == value for name, value in wanted.decoding.items()
        )

    def to_json(self) -> bytes:
        """The file's content."""
        return (json.dumps(dataclasses.asdict(self), indent=2) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes, name: str = "run.json") -> RunManifest:
        """What `to_json` wrote; fields that this version does not know are ignored.

        Raises:
          NewerFormatError: a newer version wrote it.
          ValueError: it is damaged.
        """
        fields = json.loads(content)
        if not isinstance(fields, dict):
            raise ValueError(f"not a JSON object but {fields!r:.40}")
        check_format(name, fields.setdefault("format", 0))
        types = {
            **dict.fromkeys(("inputs", "shards", "skipped", "failed", "format"), int),
            **dict.fromkeys(("decoding", "request", "limits", "prompts"), dict),
            "model": str,
        }
        fields = {name: fields[name] for name in types if name in fields} | {"skipped": fields.get("skipped", 0)}
        for name, type_ in types.items():
            if name not in fields and name not in ("limits", "prompts", "failed"):
                raise ValueError(f"{name} is missing")
            if name in fields and not isinstance(fields[name], type_):
                raise ValueError(f"{name} is {fields[name]!r:.40}")
        return cls(**fields)


def read_runs(output: str, on_damaged: Callable[[StorageError], None] = warn) -> dict[Run, RunManifest]:
    """The runs of an output by age, the oldest first.

    Args:
      output: the job's output folder.
      on_damaged: called for each run whose manifest is damaged; such a run is left out.

    Raises:
      StorageError: a manifest cannot be read, or a newer version wrote it.
    """

    def read(run: Run) -> RunManifest | StorageError:
        try:
            return read_manifest(run)
        except StorageError as error:
            if not is_damaged(error):
                raise
            return error

    files = storage_for(output).list(join(output, "runs"))
    runs = [Run(output, uri.split("/")[-2]) for uri in sorted(stored.uri for stored in files) if _is_manifest(uri)]
    manifests: dict[Run, RunManifest] = {}
    with ThreadPoolExecutor(_THREADS) as threads:
        for run, found in zip(runs, threads.map(read, runs), strict=True):
            if isinstance(found, StorageError):
                on_damaged(found)
            else:
                manifests[run] = found
    return manifests


def _is_manifest(uri: str) -> bool:
    """Checks the whole name, because other tools also write to folders named `runs`."""
    return _MANIFEST.search(uri) is not None


def read_manifest(run: Run) -> RunManifest:
    """The run's manifest.

    Raises:
      StorageError: it cannot be read, is damaged, or a newer version wrote it.
    """
    content, _ = run.storage.read(run.manifest)
    remedy = (
        "its run is left out, and the images that it completed are captioned again; restore the file, or remove the "
        f"folder {run.folder} to stop this message"
    )
    with naming_damage(run.manifest, remedy):
        return RunManifest.from_json(content, run.manifest)
