"""Fetches, decodes, captions and writes shards, with overlapping steps; one engine per process of the job.

    submit ──> the loader ────────> the model's thread ──> the writer's thread
               fetches, decodes     draws, makes batches   one file a shard

An image is in its `OpenShard` when it has its row; the shard belongs to the writer's thread from its last row until its
file is committed. An output that cannot be written fails the whole engine: the shards in progress fail with it
and are not written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from beam_job.captioning.budgets import FailureBudget
from beam_job.captioning.captioners import AnyCaptioner
from beam_job.captioning.contents import Contents
from beam_job.captioning.image_engine import ImageEngine
from beam_job.captioning.input_check import check_roots, has_root
from beam_job.captioning.open_shard import OpenShard
from beam_job.captioning.progress_file import ProgressFile
from beam_job.config import JobConfig
from beam_job.output.metrics import ShardResult
from beam_job.output.thumbnails import NO_THUMBNAILS, ThumbnailSampler
from beam_job.planning.plan import Shard
from beam_job.planning.run import Run


class Engine(ImageEngine[OpenShard]):
    """Captions shards; `submit`, `close` and `fail` may be called from any thread.

    Args:
      config: the job's.
      run: the run whose shards are written.
      captioner: called in batches, as many at a time as it says.
      input_size: side of the captioner's images, in pixels; the longest side of pictures.
      batch_size: images in a batch.
      progress: counts the images that are done, and logs messages.
      failures: counts outcomes, and decides whether to go on.
      sampler: of which images small pictures are kept.
      gpu: load images in processes.
    """

    def __init__(
        self,
        config: JobConfig,
        run: Run,
        captioner: AnyCaptioner,
        input_size: int,
        batch_size: int,
        progress: ProgressFile,
        failures: FailureBudget,
        sampler: ThumbnailSampler = NO_THUMBNAILS,
        gpu: bool = False,
    ) -> None:
        self._run = run
        self._sampler = sampler
        self._writer = ThreadPoolExecutor(1, "write")
        self._can_write = True
        contents = Contents(run.run_id) if config.dedupe else None
        super().__init__(config, captioner, batch_size, gpu, progress, failures, input_size, contents)

    def submit(self, number: int, shard: Shard) -> Future[ShardResult]:
        """Takes a shard in, without waiting.

        Returns:
          a future that is resolved when the shard's files are written, or fails with the engine.
        """
        opened = OpenShard(number, shard, self._sampler)
        self.submit_group(opened)
        return opened.done

    def close(self) -> None:
        super().close()
        self._writer.shutdown()

    def settle(self, timeout: float) -> None:
        """After `fail`: waits `timeout` seconds for the batch under way, and for files being written."""
        super().settle(timeout)
        self._writer.shutdown()

    def _complete(self, shard: OpenShard) -> None:
        """The last row of a shard sends it to the writer."""
        if self._loads_again(shard):
            return
        self._clock.transition(to="write")
        if self._remove(shard):
            self._writer.submit(self._commit, shard)

    def _loads_again(self, shard: OpenShard) -> bool:
        """Whether a shard gets a second attempt, because not one of its images could be read.

        A disk that was unmounted for a moment must not make failures of a whole shard.

        Raises:
          InputGoneError: the place of the images is gone.
        """
        if not shard.is_unread or self._config.max_failure_ratio == 1:
            return False
        images = [image for image in shard.shard.images if has_root(image.uri)]
        check_roots((image.uri for image in images), self._config.allowed)
        if shard.is_second_attempt or not images:
            return False
        count = len(shard.shard.images)
        self._progress.take_back(count)
        self._failures.take_back(count)
        shard.start_again()
        self._clock.transition(to="fetch", count=count)
        self._loader.put(shard, shard.shard.images)
        return True

    def _commit(self, shard: OpenShard) -> None:
        """The writer's thread. After one shard could not be written no other is tried: each would take as long."""
        if not self._can_write:
            shard.done.set_exception(self._error)
            return
        try:
            report = shard.commit(self._run, self.model_version, self._config)
            self._clock.transition(from_="write")
            shard.done.set_result(shard.result(report, self._clock.take(), self._take_counts()))
        except BaseException as error:
            self._can_write = False
            self.fail(error)
            shard.done.set_exception(error)

    def _take_counts(self) -> Mapping[str, int]:
        """What the captioner has counted since an earlier shard's result."""
        take: Callable[[], Mapping[str, int]] = getattr(self._captioner, "take_counts", dict)
        return {str(name): int(count) for name, count in take().items()}
