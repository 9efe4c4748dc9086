"""The runs of an output, without those whose manifest cannot be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from beam_job.config import JobConfig
from beam_job.output.formats import DAMAGED
from beam_job.planning.run import Run, RunNote, read_note
from beam_job.storage import StorageError, join, storage_for

_UNUSABLE = (DAMAGED, StorageError.__name__)  # causes of errors in what a file holds, not in reading it


@dataclass(frozen=True)
class ReadableRuns:
    """The runs of an output.

    Attributes:
      manifests: by run, the oldest first.
      left_out: a line for each run whose manifest cannot be read.
    """

    manifests: Mapping[Run, RunNote]
    left_out: tuple[str, ...]


def read_readable_runs(output: str) -> ReadableRuns:
    """Reads all manifests of an output.

    Raises:
      StorageError: the output cannot be listed, or a manifest is out of reach.
    """
    manifests: dict[Run, RunNote] = {}
    left_out: list[str] = []
    for uri in sorted(stored.uri for stored in storage_for(output).list(join(output, "runs"))):
        if uri.endswith("/run.json"):
            run = Run(output, uri.split("/")[-2])
            try:
                manifests[run] = read_note(run)
            except StorageError as error:
                if error.cause not in _UNUSABLE:
                    raise
                left_out.append(str(error))
    return ReadableRuns(manifests, tuple(left_out))


def config_of(run: Run, manifest: RunNote) -> JobConfig:
    """The configuration that a run's manifest records.

    Raises:
      StorageError: it records something else.
    """
    try:
        return JobConfig.from_request(manifest.request, run.output)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(
            f"{run.note} is damaged (request: {error!r}); remove the folder {run.folder} to forget the run"
        ) from error
