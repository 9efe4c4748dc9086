"""The runs of an output, without those whose manifest cannot be read."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from beam_job.config import JobConfig
from beam_job.output.formats import DAMAGED
from beam_job.planning.run import Run, RunNote, read_note
from beam_job.storage import StorageError, join, storage_for

_THREADS = 16
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

    def read(run: Run) -> RunNote | StorageError:
        try:
            return read_note(run)
        except StorageError as error:
            if error.cause not in _UNUSABLE:
                raise
            return error

    files = sorted(stored.uri for stored in storage_for(output).list(join(output, "runs")))
    runs = [Run(output, uri.split("/")[-2]) for uri in files if uri.endswith("/run.json")]
    with ThreadPoolExecutor(_THREADS) as threads:
        found = dict(zip(runs, threads.map(read, runs), strict=True))
    return ReadableRuns(
        {run: manifest for run, manifest in found.items() if not isinstance(manifest, StorageError)},
        tuple(str(error) for error in found.values() if isinstance(error, StorageError)),
    )


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
