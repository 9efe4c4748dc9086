"""Reads from the plans of an output's runs the positions of images inside Parquet, and which rows are trusted."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_job.planning.keys import URI_BYTES, Keys, uri_keys
from beam_job.planning.plan import PlanReader, Shard, read_plan_columns
from beam_job.planning.run import Run, RunManifest
from beam_job.records import ImageInput
from beam_job.storage import StorageError, local_path, scheme_of

_SHARDS_KEPT = 4


class PlannedImages:
    """The planned images of an output's runs, by URI; only one thread calls it.

    Args:
      manifests: of the runs.
    """

    def __init__(self, manifests: Mapping[Run, RunManifest]) -> None:
        self._runs = {run.run_id: (run, manifest) for run, manifest in manifests.items()}
        self._plan_of = functools.cache(self._read)

    def of(self, run_id: str, uri: str) -> ImageInput | None:
        """The planned image; None where the run or its plan is unknown, or the URI was not in it.

        Its `is_trusted` is None unless this user owns the run: others could have written a plan that names any file.
        """
        plan = self._plan_of(run_id) if run_id in self._runs else None
        return None if plan is None else plan.image(uri)

    def _read(self, run_id: str) -> _RunPlan | None:
        try:
            return _RunPlan(*self._runs[run_id])
        except StorageError:  # it is damaged, or was deleted; then the URI has to say where the image is
            return None


class _RunPlan:
    """The plan of one run, searched by the hashes of URIs."""

    def __init__(self, run: Run, manifest: RunManifest) -> None:
        keys: list[Keys] = [np.empty(0, f"S{URI_BYTES}")]
        counts: list[int] = []
        for table in read_plan_columns(run, manifest.shards, ["uri"]):
            keys.append(uri_keys(table["uri"]))
            counts.append(table.num_rows)
        unsorted = np.concatenate(keys)
        order = np.argsort(unsorted)
        self._keys = unsorted[order]
        self._shards: npt.NDArray[np.int32] = np.repeat(np.arange(len(counts), dtype=np.int32), counts)[order]
        self._trusts = _is_own(run) and manifest.request.get("untrusted_lists") is False
        reader = PlanReader(run)
        self._shard = functools.lru_cache(_SHARDS_KEPT)(reader.shard)

    def image(self, uri: str) -> ImageInput | None:
        [key] = uri_keys(pa.array([uri], pa.string()))
        at = int(np.searchsorted(self._keys, key))
        if at == len(self._keys) or self._keys[at] != key:
            return None
        shard: Shard = self._shard(int(self._shards[at]))
        place = shard.place.get(uri)
        if place is None:
            return None
        image = shard.images[place]
        trusted = image.is_trusted if self._trusts else None
        return ImageInput(uri, parquet_place=image.parquet_place, is_trusted=trusted)


def _is_own(run: Run) -> bool:
    """Whether a run's manifest and plan lie on a disk of this machine, and belong to this user."""
    if scheme_of(run.output) != "file":
        return False
    try:
        owners = {os.stat(local_path(path)).st_uid for path in (run.folder, run.manifest, run.plan_folder)}
    except OSError:
        return False
    return owners <= {os.geteuid()}
