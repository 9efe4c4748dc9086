"""Checks and estimates before a run: its time and cost, and on Dataflow whether it could start. Writes nothing."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from beam_job.config import JobConfig
from beam_job.output.sink import committed_shards
from beam_job.planning.listed_inputs import list_inputs
from beam_job.planning.new_images import count_new, format_skipped
from beam_job.planning.plan import shard_of
from beam_job.planning.prepare import PlannedRun, find_resumable_run, new_manifest
from beam_job.runners.dataflow import on_dataflow, places_of, workers_of
from beam_job.runners.estimate import MEAN_BYTES, describe, estimate_on_dataflow
from beam_job.runners.measure import describe_measured, images_to_measure, measure
from beam_job.storage import GoogleCloudStorage, StorageError, bucket_of, scheme_of, storage_for
from beam_job.storage.parquet import read_parquet
from beam_job.text import counted

_LOGGER = logging.getLogger(__name__)
_READ = ("storage.objects.get", "storage.objects.list")
_WRITE = ("storage.objects.create", "storage.objects.delete", *_READ)


class PreflightError(ValueError):
    """The run cannot start; the message says what is missing."""


def check_reachable(config: JobConfig, arguments: Sequence[str]) -> None:
    """Checks that a run on Dataflow may read and write its buckets; does nothing for another runner.

    It checks the permissions of the caller; the workers have those of their service account.

    Raises:
      PreflightError: a bucket is missing, or may not be read or written.
      CredentialsError: nobody is logged in.
    """
    if not on_dataflow(arguments):
        return
    wanted: dict[str, dict[str, None]] = {}
    for uri in (uri for uri in (*config.inputs, config.model or "") if scheme_of(uri) == "gs"):
        wanted.setdefault(bucket_of(uri), {}).update(dict.fromkeys(_READ))
    for uri in (config.output, *places_of(arguments)):
        wanted.setdefault(bucket_of(uri), {}).update(dict.fromkeys(_WRITE))
    unknown = []
    for place, permissions in wanted.items():
        storage = storage_for(place)
        assert isinstance(storage, GoogleCloudStorage)
        try:
            lacking = storage.lacking(place, list(permissions))
        except StorageError as error:
            if error.cause == "NotFound":
                raise PreflightError(
                    f"there is no bucket {place}; create it (gcloud storage buckets create {place})"
                ) from error
            raise
        if lacking:
            raise PreflightError(
                f"permissions are missing in {place}: {', '.join(lacking)}; grant "
                "roles/storage.objectUser there, to the workers' service account too"
            )
        if lacking is None:
            unknown.append(place)
    if unknown:
        _LOGGER.info(f"could not check the permissions to read and write in {', '.join(unknown)}")


def log_workers(config: JobConfig, arguments: Sequence[str], prepared: PlannedRun) -> None:
    """Tells of a run on Dataflow which workers it will have and what it will take; of another runner nothing."""
    if not on_dataflow(arguments):
        return
    table = read_parquet(prepared.run.plan_part(0)).read(columns=["size"])
    left = _left(prepared)
    _log_estimate(config, arguments, left, _mean_bytes([table["size"]]))


def log_estimate(
    config: JobConfig,
    arguments: Sequence[str],
    model_version: str,
    quiet: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> None:
    """`--estimate`: what the same command would take and cost; only of the bundled model on Dataflow without measuring.

    Args:
      config: the job.
      arguments: for Beam.
      model_version: of the captioner.
      quiet: entered while images are captioned.

    Raises:
      CaptionerError: the captioner to be measured cannot be opened.
      InputError: there is nothing to caption where the user pointed.
      StorageError: inputs or output cannot be read.
      PreflightError: as `check_reachable` says.
    """
    check_reachable(config, arguments)
    is_measured = config.captioner is not None or not on_dataflow(arguments)
    if resumable := find_resumable_run(config, model_version):
        _LOGGER.info(
            f"would continue run {resumable.run.run_id}, planned with {counted(resumable.plan.inputs, 'image')}"
        )
        table = read_parquet(resumable.run.plan_part(0)).read()
        if is_measured:
            _log_measured(config, model_version, _left(resumable), table[: images_to_measure(config)], quiet)
        else:
            _log_estimate(config, arguments, _left(resumable), _mean_bytes([table["size"]]))
        return
    new = count_new(config, new_manifest(config, model_version), list_inputs(config), images_to_measure(config))
    if new.skipped:
        _LOGGER.info(f"{format_skipped(new.skipped, new.failed)}, skipped")
    if new.first is not None and is_measured:
        _log_measured(config, model_version, new.images, new.first, quiet)
    elif new.images:
        _log_estimate(config, arguments, new.images, new.mean_bytes)
    else:
        _LOGGER.info(f"nothing to do{': all images listed are done' if new.skipped else ''}")


def _log_measured(
    config: JobConfig,
    model_version: str,
    images: int,
    first: pa.Table,
    quiet: Callable[[], contextlib.AbstractContextManager[Any]],
) -> None:
    with quiet():
        measured = measure(config, model_version, shard_of(first))
    for line in describe_measured(measured, images, model_version, config.worker_price):
        _LOGGER.info(line)


def _left(prepared: PlannedRun) -> int:
    """Images of the shards that are not written."""
    done = len(committed_shards(prepared.run)) if prepared.resumed else 0
    return round(prepared.plan.inputs * (1 - done / prepared.plan.shards))


def _log_estimate(config: JobConfig, arguments: Sequence[str], images: int, mean_bytes: float | None) -> None:
    assumed = mean_bytes or MEAN_BYTES
    workers = workers_of(arguments)
    _LOGGER.info(f"Dataflow workers: {workers}")
    estimate = estimate_on_dataflow(
        images, assumed, workers, config.shard_size, config.worker_price, config.fetch_threads
    )
    if estimate is None:
        _LOGGER.info(
            f"estimate: {counted(images, 'image')}; the speed of a machine that is not in the table is unknown"
        )
        return
    for line in describe(estimate, listed=mean_bytes is not None, own_price=config.worker_price is not None):
        _LOGGER.info(line)


def _mean_bytes(sizes: Sequence[pa.Array | pa.ChunkedArray]) -> float | None:
    """The mean size of the images whose size is known; None if there are none."""
    known = sum(len(column) - column.null_count for column in sizes)
    return sum(pc.sum(column).as_py() or 0 for column in sizes) / known if known else None
