"""Dask: Beam's options for it, a cluster on this machine if no address is given, and models that stay loaded.

Beam's DaskRunner makes a DoFn for each partition of the shard numbers, and knows no metrics. Each worker process keeps
its engine, and so its model, between partitions; times and counts come from the shards' files.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from beam_job.captioning.engines import close_kept_engine
from beam_job.config import JobConfig

_LOGGER = logging.getLogger(__name__)
DASK_RUNNER = "apache_beam.runners.dask.dask_runner.DaskRunner"
# A lost worker costs the partitions it was working on. More tasks than this would keep the scheduler busy.
_MOST_PARTITIONS = 10_000
_THREADS = 2  # of a worker: the images of one partition are loaded while the last of another are captioned
_IS_DASKS = re.compile(r"(distributed|asyncio|tornado)(\.|$)")
_GPUS = Path("/proc/driver/nvidia/gpus")
_PLACES = ("address", "scheduler_file")
_SIZES = ("npartitions", "partition_size")


def means_dask(runner: str) -> bool:
    """Whether a value of --runner, long or short, is Dask's."""
    return runner.lower() in ("dask", "daskrunner", DASK_RUNNER.lower())


def runs_on_dask(options: PipelineOptions) -> bool:
    """Whether the runner is Dask's."""
    return means_dask(options.view_as(StandardOptions).runner or "")


def load_dask_options() -> str | None:
    """Registers Beam's options for Dask; returns what is missing, or None."""
    try:
        importlib.import_module("dask.distributed")
    except ImportError as error:
        return f"--runner=DaskRunner needs `pip install 'caption-images[dask]'`: {error}"
    importlib.import_module("apache_beam.runners.dask.dask_runner")
    return None


def has_cluster(options: PipelineOptions) -> bool:
    """Whether the options name a scheduler; otherwise the cluster is made here."""
    dask = _dask_options(options)
    return any(getattr(dask, name) for name in _PLACES)


def is_local_cluster(options: PipelineOptions) -> bool:
    """Whether the run is for Dask, with a cluster that `local_cluster` makes."""
    return runs_on_dask(options) and not has_cluster(options)


def partition(options: PipelineOptions, shards: int) -> None:
    """Sets the partitions' size unless the user did: one shard, or more where there are very many."""
    dask = _dask_options(options)
    if not any(getattr(dask, name) for name in _SIZES):
        dask.partition_size = -(-max(shards, 1) // _MOST_PARTITIONS)


@contextlib.contextmanager
def local_cluster(config: JobConfig, options: PipelineOptions) -> Iterator[None]:
    """A cluster of this machine during the block, if the run is for Dask and no scheduler is named.

    It has a process for each GPU, which sees this GPU alone, or else `config.workers` processes.
    """
    if not runs_on_dask(options):
        yield
        return
    if not config.verbose:
        for name in filter(_IS_DASKS.match, list(logging.root.manager.loggerDict)):  # some have a level of their own
            logging.getLogger(name).setLevel(logging.CRITICAL)
    if has_cluster(options):
        yield
        return
    distributed: Any = importlib.import_module("dask.distributed")
    gpus = visible_gpus()
    environments: Sequence[dict[str, str]] = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus]
    if config.workers > 1 or not gpus:
        # More processes than GPUs would share a device, whose memory one model takes.
        environments = environments[: config.workers] or [{}] * config.workers
    workers = {
        f"worker-{number}": {
            "cls": distributed.Nanny,
            "options": {"nthreads": _THREADS, "env": environment, "silence_logs": logging.CRITICAL},
        }
        for number, environment in enumerate(environments)
    }
    scheduler = {"cls": distributed.Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard": False}}
    with distributed.SpecCluster(scheduler=scheduler, workers=workers, silence_logs=False) as cluster:
        _dask_options(options).address = cluster.scheduler_address
        yield


def visible_gpus() -> list[str]:
    """The NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; CUDA is not started."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    return [str(number) for number in range(len(list(_GPUS.iterdir())))] if _GPUS.is_dir() else []


@contextlib.contextmanager
def log_lack_of_workers(client: Any, patience_s: float = 10.0) -> Iterator[None]:
    """In this block, logs when the cluster has had no worker for `patience_s`, since the run makes no progress then.

    Args:
      client: a `distributed.Client`.
      patience_s: seconds; a worker that is restarted takes a few.
    """
    ended = threading.Event()

    def watch() -> None:
        last_seen, is_logged = time.monotonic(), False
        while not ended.wait(patience_s / 10):
            with contextlib.suppress(Exception):  # that the scheduler is gone is noticed elsewhere
                if client.nthreads():
                    last_seen, is_logged = time.monotonic(), False
                elif not is_logged and time.monotonic() - last_seen >= patience_s:
                    address = client.scheduler.address
                    _LOGGER.warning(
                        f"waiting for workers: the Dask scheduler at {address} has had none for {patience_s:.0f} s"
                    )
                    is_logged = True

    threading.Thread(target=watch, name="dask workers", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def close_models(result: Any) -> None:
    """Closes the models that the run has left open in the workers of its cluster; one that cannot stays open."""
    with contextlib.closing(result.client), contextlib.suppress(Exception):  # of a worker that is gone
        result.client.run(close_kept_engine, on_error="ignore")


class SchedulerLostError(RuntimeError):
    """Dask's scheduler has gone, and with it what it had not finished."""


def check_finished(result: Any, options: PipelineOptions) -> None:
    """Raises SchedulerLostError unless all work has ended: Beam's wait just ends when the scheduler is gone."""
    if any(future.status != "finished" for future in result.futures):
        dask = _dask_options(options)
        raise SchedulerLostError(
            f"the connection to Dask's scheduler at {dask.address or dask.scheduler_file} was lost"
        )


def dask_reason(error: BaseException, options: PipelineOptions) -> str | None:
    """Why a run on Dask has failed, in a line; None for errors of another kind."""
    if not runs_on_dask(options):
        return None
    dask, name = _dask_options(options), type(error).__name__
    where = dask.address or dask.scheduler_file
    if name == "KilledWorker":
        return f"workers of the Dask cluster died repeatedly: {str(error).splitlines()[0]}"
    if isinstance(error, SchedulerLostError):
        return str(error)
    if name in ("CancelledError", "FutureCancelledError", "FuturesCancelledError", "CommClosedError"):
        return _lost(options)
    if isinstance(error, (OSError, ValueError)) and "connect" in str(error).lower():
        return f"no Dask scheduler answers at {where}: {str(error).splitlines()[0]}"
    return None


def _lost(options: PipelineOptions) -> str:
    dask = _dask_options(options)
    return f"the connection to Dask's scheduler at {dask.address or dask.scheduler_file} was lost"


def _dask_options(options: PipelineOptions) -> Any:
    return options.view_as(importlib.import_module("apache_beam.runners.dask.dask_runner").DaskOptions)
