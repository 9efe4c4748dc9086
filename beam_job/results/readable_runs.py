"""The runs of an output, without those whose manifest cannot be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from beam_job.config import JobConfig
from beam_job.planning.recorded_config import config_of_request
from beam_job.planning.run import Run, RunManifest, read_runs
from beam_job.storage import StorageError


@dataclass(frozen=True)
class ReadableRuns:
    """The runs of an output.

    Attributes:
      manifests: by run, the oldest first.
      left_out: a line for each run whose manifest cannot be read.
    """

    manifests: Mapping[Run, RunManifest]
    left_out: tuple[str, ...]


def read_readable_runs(output: str) -> ReadableRuns:
    """Reads all manifests of an output.

    Raises:
      StorageError: the output cannot be listed, a manifest is out of reach, or a newer version wrote it.
    """
    left_out: list[str] = []
    manifests = read_runs(output, on_damaged=lambda error: left_out.append(str(error)))
    return ReadableRuns(manifests, tuple(left_out))


def config_of(run: Run, manifest: RunManifest) -> JobConfig:
    """The configuration that a run's manifest records.

    Raises:
      StorageError: it records something else.
    """
    try:
        return config_of_request(manifest.request, run.output)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(
            f"{run.manifest} is damaged (request: {error!r}); remove the folder {run.folder} to forget the run"
        ) from error
