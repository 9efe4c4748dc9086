"""Shards through fetch, decode, caption and write, overlapped: the heart of the job, one for each process.

    submit ──> the loader ────────> the model's thread ──> the writer's thread
               fetches, decodes     draws, makes batches   one file a shard

An image belongs to the loader from `submit` until the model's thread draws its outcome from the loader's queue, to the
model's thread until its row is in its `OpenShard`, and to the writer's thread from the shard's last row until the
shard's file is committed.

Images of the next shard are fetched and decoded while the model works on the last ones of this shard, and a batch may
hold images of both. The model waits only where images arrive too slowly. On a GPU two batches run at the same time,
one being copied to the device while it computes the other, and the loader has processes instead of threads.

An error that would hit every image alike (an output that cannot be written, credentials that have expired, a spent
failure budget) fails the engine as a whole: the shards under way fail with it, unwritten, and so does every later
`submit`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from beam_job.captioning.batch_runner import BatchRunner, FinishedBatch
from beam_job.captioning.budgets import FailureBudget
from beam_job.captioning.captioners import AnyCaptioner, takes_pictures
from beam_job.captioning.input_check import check_roots, has_root
from beam_job.captioning.open_shard import OpenShard
from beam_job.captioning.progress_file import ProgressFile
from beam_job.config import JobConfig
from beam_job.loading.loader import LoadConfig, Loader, LoadEvent, ThreadLoader
from beam_job.loading.process_loader import ProcessLoader
from beam_job.output.metrics import ShardResult
from beam_job.output.stage_clock import StageClock
from beam_job.output.thumbnails import NO_THUMBNAILS, ThumbnailSampler
from beam_job.planning.plan import Shard
from beam_job.planning.run import Run
from beam_job.records import RUN_ENDED, CaptionedImage, Failure, ImageInput
from model import CaptionerError

_SETTLE_SECONDS = 60.0  # for a batch under way, when another engine is to have the captioner


class Engine:
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
        self._config = config
        self._run = run
        self._sampler = sampler
        self._progress = progress
        self._failures = failures
        self._captioner = captioner
        self._model_version = captioner.version
        load_config = LoadConfig.of(config, input_size, gpu, takes_pictures(captioner))
        self._clock = StageClock(load_config.decode_threads)
        self._batches = BatchRunner(captioner, batch_size, config, progress.log, self._clock)
        self._loader: Loader = ProcessLoader(load_config) if gpu else ThreadLoader(load_config)
        self._writer = ThreadPoolExecutor(1, "write")
        self._can_write = True
        self._open: set[OpenShard] = set()
        self._error: BaseException | None = None
        self._ended: str | None = None  # why the captioner leaves all other images for the next run
        self._lock = threading.Condition()  # guards _open and _error, and is notified when they change
        self._model_thread = threading.Thread(target=self._run_model, name="caption", daemon=True)
        self._model_thread.start()

    @property
    def ran_with(self) -> tuple[str, str, int]:
        """What runs the captioner, its precision, and the present size of its batches."""
        return self._batches.ran_with

    @property
    def has_failed(self) -> bool:
        """Whether every `submit` fails from now on."""
        with self._lock:
            return self._error is not None

    def submit(self, number: int, shard: Shard) -> Future[ShardResult]:
        """Takes a shard in, without waiting.

        Returns:
          a future that is resolved when the shard's files are written, or fails with the engine.
        """
        opened = OpenShard(number, shard, self._sampler)
        with self._lock:
            if self._error:
                opened.done.set_exception(self._error)
                return opened.done
            self._open.add(opened)
        self._clock.transition(to="fetch", count=len(shard.images))
        if self._ended is None:
            self._loader.put(opened, shard.images)
        else:
            self._loader.put_failures(opened, [_left(image, self._ended) for image in shard.images])
        return opened.done

    def close(self) -> None:
        """Finishes what was submitted, unless the engine has failed, and ends all threads."""
        with self._lock:
            self._lock.wait_for(lambda: self._error or not self._open)
        self._loader.close()
        self._model_thread.join()
        self._writer.shutdown()
        self._progress.close()

    def fail(self, error: BaseException) -> None:
        """Fails the shards under way and all later ones with `error`; only those that have all their rows are written.

        Images that wait to be fetched, decoded or captioned are dropped, a batch under way ends, a fetch under way is
        left alone. Of several errors the first counts.
        """
        with self._lock:
            if self._error:
                return
            self._error = error
            under_way, self._open = self._open, set()
            self._lock.notify_all()
        self._loader.stop()
        for shard in under_way:
            shard.done.set_exception(error)

    def settle(self, timeout: float) -> None:
        """After `fail`: waits `timeout` seconds for the batch under way, and for files being written."""
        self._model_thread.join(timeout)
        self._writer.shutdown()

    def take_captioner(self) -> AnyCaptioner | None:
        """After `fail`: the captioner, to be used by another engine; None if it does not become free in time."""
        self._model_thread.join(_SETTLE_SECONDS)
        return None if self._model_thread.is_alive() or self._batches.is_running else self._captioner

    def _run_model(self) -> None:
        """The model's thread."""
        try:
            while events := self._loader.get():
                self._take(events)
        except Exception as error:
            self.fail(error)
        except BaseException as error:  # nobody may wait for rows that never come
            self.fail(_as_exception(error))
        self._batches.wait()

    def _take(self, events: list[LoadEvent]) -> None:
        """Puts images into batches, and runs each when it is full or when no more images are on their way."""
        is_last = not self._loader.pending
        for event in events:
            shard, outcome = event.key, event.outcome
            if outcome is None:
                self._clock.transition(from_="fetch", to="decode")
                self._failures.count_fetched()
                continue
            self._clock.transition(from_="fetch" if event.file_bytes is None else "decode")
            shard.count_load(event)
            if self._ended is not None and not isinstance(outcome, Failure):
                outcome = _left(outcome.input, self._ended)
            self._failures.add(outcome if isinstance(outcome, Failure) else None)
            if isinstance(outcome, Failure):
                self._finish(shard, outcome)
            else:
                self._finish_all(self._batches.add(shard, outcome))
        self._finish_all(self._batches.flush() if is_last else self._batches.take_finished())

    def _finish_all(self, batches: list[FinishedBatch]) -> None:
        for batch in batches:
            for shard, image, outcome in batch.rows:
                shard.count_seconds("caption", batch.seconds / len(batch.rows))
                if isinstance(outcome, Failure):
                    self._failures.revoke(outcome)
                    if outcome.error_type == RUN_ENDED and self._ended is None:
                        self._ended = outcome.error_message
                        self._progress.log(f"{self._ended}; all other images are left for the next run")
                else:
                    shard.thumbnails.offer(image, outcome)
                self._finish(shard, outcome)

    def _finish(self, shard: OpenShard, outcome: CaptionedImage | Failure) -> None:
        """Adds an image's row to its shard; the last one sends the shard to the writer."""
        self._progress.add(isinstance(outcome, Failure), self._clock.seconds)
        if not shard.add(outcome) or self._loads_again(shard):
            return
        self._clock.transition(to="write")
        with self._lock:
            if self._error:
                return
            self._open.remove(shard)
            self._lock.notify_all()
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
            report = shard.commit(self._run, self._model_version, self._config)
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


def _left(image: ImageInput, reason: str) -> Failure:
    """The failure of an image that is left for the next run."""
    return Failure(image.uri, "caption", RUN_ENDED, reason, True, image.object_version)


def _as_exception(error: BaseException) -> Exception:
    """An Exception, which Beam's workers report, for a SystemExit or KeyboardInterrupt."""
    if isinstance(error, SystemExit):
        return CaptionerError(f"the captioner called exit({error.code!r}) instead of captioning a batch")
    return RuntimeError(f"the model's thread was interrupted: {error!r}")
