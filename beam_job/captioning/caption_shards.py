"""The job's DoFn: takes a shard's number and writes its files; captions, pixels and features never leave the stage."""

from __future__ import annotations

import collections
from collections.abc import Callable
from concurrent.futures import Future

import apache_beam as beam

from beam_job.captioning.budgets import FailureBudget
from beam_job.captioning.captioners import AnyCaptioner, bundle_of_run, captioner_of_run, side_of, takes_pictures
from beam_job.captioning.engine import Engine
from beam_job.captioning.engines import ENGINES
from beam_job.captioning.progress_file import ProgressFile
from beam_job.config import JobConfig
from beam_job.output.metrics import ShardResult, count_report, count_work
from beam_job.output.sink import publish_failures, read_report
from beam_job.output.thumbnails import ThumbnailSampler
from beam_job.planning.plan import PlanReader
from beam_job.planning.run import Run, RunManifest, read_manifest
from beam_job.storage import use_access
from model import load_captioner
from model.devices import default_batch_size, open_gpus
from model.engine_choice import CPU_ENGINES

_BATCHES_AHEAD = 4  # at least so many are fetched and decoded while the model works


class CaptionShards(beam.DoFn):
    """Captions the images of each shard of a run and commits the shard's files.

    `process` returns while the last images of its shard are still in progress, so that those of the next can be
    fetched; the bundle ends when all its shards are committed.

    Args:
      config: the job.
      run: whose plan holds the shards.
      progress_folder: for the progress line of a local run, or None.
      keep_model: whether the process keeps its model open for the next instance, on runners that make many.
    """

    def __init__(
        self, config: JobConfig, run: Run, progress_folder: str | None = None, keep_model: bool = False
    ) -> None:
        self._config = config
        self._run = run
        self._progress_folder = progress_folder
        self._keep_model = keep_model

    def setup(self) -> None:
        use_access(self._config.access)
        self._plan = PlanReader(self._run)
        self._manifest = read_manifest(self._run)
        self._engine = self._acquire_engine()

    def start_bundle(self) -> None:
        if self._engine.has_failed:  # with the bundle of another thread, which is why this one may be a second attempt
            failed, self._engine = self._engine, self._acquire_engine()
            ENGINES.release(failed)
        _, _, batch_size = self._engine.ran_with
        self._ahead = max(1, _BATCHES_AHEAD * batch_size // self._config.shard_size)
        self._under_way: collections.deque[Future[ShardResult]] = collections.deque()

    def process(self, shard: int) -> None:
        images = self._plan.shard(shard)
        if self._run.storage.exists(self._run.captions(shard)):
            # An earlier attempt committed it, perhaps without its failures file.
            report = read_report(self._run, shard)
            publish_failures(self._run, shard, report, images)
            count_report(report)
            return
        self._under_way.append(self._engine.submit(shard, images))
        while len(self._under_way) > self._ahead:
            self._count(self._under_way.popleft().result())

    def finish_bundle(self) -> None:
        while self._under_way:
            self._count(self._under_way.popleft().result())

    def teardown(self) -> None:
        self._plan.close()
        ENGINES.release(self._engine)

    def _count(self, result: ShardResult) -> None:
        count_report(result.report)
        count_work(result, *self._engine.ran_with)

    def _acquire_engine(self) -> Engine:
        key = (self._config, self._run, self._progress_folder)
        return ENGINES.acquire(key, lambda failed: self._open_engine(self._manifest, failed), self._keep_model)

    def _open_engine(self, note: RunManifest, failed: Engine | None) -> Engine:
        """An engine with the captioner of the failed one, if that is free: a device may not hold a second model."""
        config = self._config
        progress = ProgressFile(self._progress_folder)
        failures = FailureBudget(config.max_failure_ratio, note.inputs)
        sampler = ThumbnailSampler.for_run(0 if config.no_report else config.report_samples, note.inputs)
        captioner = failed.take_captioner() if failed else None
        return open_engine(config, self._run, note.model, progress, failures, sampler, captioner)


def open_engine(
    config: JobConfig,
    run: Run,
    version: str,
    progress: ProgressFile,
    failures: FailureBudget,
    sampler: ThumbnailSampler,
    captioner: AnyCaptioner | None = None,
) -> Engine:
    """An engine with the job's captioner in the version of the run, or with one that is open already.

    Raises:
      CaptionerError, BundleError: it cannot be opened, or has changed since the run began.
    """
    captioner = captioner or open_captioner(config, version, progress.log_info)
    batch_size, gpu = batch_size_of(config, captioner), has_gpu(config, captioner)
    return Engine(config, run, captioner, side_of(captioner), batch_size, progress, failures, sampler, gpu)


def has_gpu(config: JobConfig, captioner: AnyCaptioner) -> bool:
    """Whether a GPU waits for images; TensorFlow is asked unless the captioner knows."""
    if takes_pictures(captioner) and (config.is_named or hasattr(captioner, "on_gpu")):
        return bool(getattr(captioner, "on_gpu", False))
    return open_gpus(required=config.require_gpu) > 0 and config.engine not in CPU_ENGINES


def batch_size_of(config: JobConfig, captioner: AnyCaptioner) -> int:
    """Images in a batch: as the user, the captioner or the device says."""
    return config.batch_size or getattr(captioner, "batch_size", None) or default_batch_size()


def open_captioner(config: JobConfig, version: str, log: Callable[[str], None]) -> AnyCaptioner:
    """The captioner of the options, loaded.

    Args:
      config: the job's.
      version: that it must have.
      log: logs a line.

    Raises:
      BundleError, CaptionerError: there is none, or it has another version.
    """
    if config.captioner is None or not config.is_named:
        open_gpus(required=config.require_gpu)  # before TensorFlow is used
    if config.captioner:
        return captioner_of_run(config, version)
    bundle = bundle_of_run(config, version)
    return load_captioner(bundle, config.decoding, config.engine, log, config.precision)
