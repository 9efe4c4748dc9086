"""Shards through fetch, decode, caption and write, overlapped: the heart of the job, one for each process.

    submit ──> the loader ───────> arrivals ──> the model's thread ──> the writer's thread
               (fetches, decodes)  (queue)      (batches)              (one file a shard)

Images of the next shard are fetched and decoded while the model works on the last ones of this shard, and a batch may
hold images of both; a shard's file is written while the model goes on. The model waits only where images come too
slowly. On a GPU two batches are under way, one copied to the device while it computes the other, and the loader has
processes instead of threads.

What would hit every image alike (an output that cannot be written, credentials that are gone, a spent failure budget)
fails the engine as a whole: the shards under way fail with it, unwritten, and so does every later `submit`.
"""

from __future__ import annotations

import collections
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from beam_job.captioning.batches import BatchCaptioner
from beam_job.captioning.budgets import ByteBudget, FailureBudget, FailureBudgetError
from beam_job.captioning.open_shard import OpenShard
from beam_job.captioning.progress_file import ProgressFile
from beam_job.config import JobConfig
from beam_job.loading.loader import LoadConfig, Loaded, Loader, ThreadLoader
from beam_job.loading.process_loader import ProcessLoader
from beam_job.output.metrics import ShardResult
from beam_job.output.stage_clock import StageClock
from beam_job.output.thumbnails import NO_THUMBNAILS, ThumbnailSampler
from beam_job.planning.plan import Shard
from beam_job.planning.run import Run
from beam_job.records import CaptionedImage, DecodedImage, Failure
from model import ImageCaptioner

_UNKNOWN_SIZE = 2**20  # bytes that an image from a list counts for until it is fetched
_Key = tuple[OpenShard, int]  # an image's shard, and the bytes that it counts for until it is fetched
Batch = list[tuple[OpenShard, DecodedImage]]
Captioned = tuple[list[CaptionedImage | Failure], float]  # and the seconds that it took


class Engine:
    """Runs shards; `submit` and `close` may be called from any thread.

    Args:
      config: threads, captions an image.
      run: where the shards' files go.
      captioner: called in batches of one size; from one thread, or from two where it is compiled for a GPU.
      input_size: side of the captioner's images, in pixels.
      batch_size: images that the captioner takes at once.
      progress: told of every image that is done, and of what people should know.
      failures: told of them too, and asked whether to go on.
      sampler: of which images small pictures are kept.
      gpu: whether one waits for images, which processes load then.
    """

    def __init__(
        self,
        config: JobConfig,
        run: Run,
        captioner: ImageCaptioner,
        input_size: int,
        batch_size: int,
        progress: ProgressFile,
        failures: FailureBudget,
        sampler: ThumbnailSampler = NO_THUMBNAILS,
        gpu: bool = False,
    ) -> None:
        self._run = run
        self._model_version = captioner.version
        # Only the project's own captioner has these two.
        self._runs_on = getattr(captioner, "engine", "custom"), getattr(captioner, "precision", "unknown")
        self._batches = BatchCaptioner(captioner, batch_size, progress.tell)
        self._at_once = 2 if self._runs_on[0] == "xla" else 1
        self._running: collections.deque[tuple[Batch, Future[Captioned]]] = collections.deque()
        self._several = config.decoding.num_captions > 1
        self._min_score = config.min_score
        self._sampler = sampler
        self._progress = progress
        self._failures = failures
        load_config = LoadConfig.of(config, input_size, gpu)
        self._model_time = StageClock(load_config.decode_threads)
        self._budget = ByteBudget(config.in_flight_bytes)
        self._pixel_bytes = 3 * input_size**2
        self._in_flight = 0
        self._open: set[OpenShard] = set()
        self._broken: BaseException | None = None
        self._lock = threading.Lock()  # of these three
        self._arrivals: queue.SimpleQueue[list[tuple[OpenShard, DecodedImage | Failure]] | None] = queue.SimpleQueue()
        make_loader = ProcessLoader if gpu else ThreadLoader
        self._loader: Loader = make_loader(self, load_config)
        self._writer = ThreadPoolExecutor(1, "write")
        self._model_thread = threading.Thread(target=self._run_model, name="caption", daemon=True)
        self._model_thread.start()

    @property
    def ran_with(self) -> tuple[str, str, int]:
        """The engine, its precision, and the images that it takes at once by now."""
        return *self._runs_on, self._batches.size

    def submit(self, number: int, shard: Shard) -> Future[ShardResult]:
        """Takes a shard in, waiting while too many bytes are ahead of the model.

        Returns:
          a future that is resolved once the shard's files are written; where the engine fails first, with its error.
        """
        opened = OpenShard(number, shard, self._sampler)
        with self._lock:
            if self._broken:
                opened.done.set_exception(self._broken)
                return opened.done
            self._open.add(opened)
        for image in shard.images:
            taken = _UNKNOWN_SIZE if image.size is None else image.size
            self._budget.acquire(taken + self._pixel_bytes)
            with self._lock:
                self._in_flight += 1
            self._model_time.transition(to="fetch")
            self._loader.put((opened, taken), image)
        return opened.done

    def close(self) -> None:
        """Finishes what was submitted, unless the engine has failed, and ends all threads."""
        self._loader.close()
        self._arrivals.put(None)
        self._model_thread.join()
        self._writer.shutdown()
        self._progress.close()

    def fail(self, error: BaseException) -> None:
        """Fails the shards under way and all later ones with `error`; only those that have all their rows are written.

        What waits to be fetched, decoded or captioned is dropped, a batch under way ends, a fetch under way is left
        alone. The first error counts.
        """
        with self._lock:
            if self._broken:
                return
            self._broken = error
            under_way, self._open = self._open, set()
        self._budget.lift()
        self._loader.stop()
        self._arrivals.put(None)
        for shard in under_way:
            shard.done.set_exception(error)

    def settle(self, timeout: float) -> None:
        """After `fail`: waits for the batch under way, `timeout` seconds at most, and for files being written."""
        self._model_thread.join(timeout)
        self._writer.shutdown()

    def fetched(self, sizes: Sequence[tuple[_Key, int]]) -> None:
        """As the loader's receiver."""
        self._model_time.transition(from_="fetch", to="decode", count=len(sizes))
        self._failures.fetched()
        for (shard, _), size in sizes:
            shard.image_bytes.append(size)
        self._budget.release(sum(taken - size for (_, taken), size in sizes))

    def loaded(self, images: Sequence[tuple[_Key, Loaded]]) -> None:
        """As the loader's receiver."""
        for (shard, _), loaded in images:
            shard.took(loaded)
        unfetched = [taken for (_, taken), loaded in images if loaded.size is None]
        self._model_time.transition(from_="fetch", count=len(unfetched))
        self._model_time.transition(from_="decode", count=len(images) - len(unfetched))
        self._budget.release(sum(unfetched) + sum(loaded.size or 0 for _, loaded in images))
        self._arrivals.put([(shard, loaded.outcome) for (shard, _), loaded in images])

    def _run_model(self) -> None:
        try:
            self._caption_arrivals()
        except FailureBudgetError as error:
            self.fail(error)
        except BaseException as error:  # nobody may wait for rows that never come
            self.fail(_broken_off(error))

    def _caption_arrivals(self) -> None:
        """The model's thread: collects a batch, and runs it when it is full or when nothing more is on its way."""
        batch: Batch = []
        while (arrivals := self._arrivals.get()) is not None and not self._broken:
            self._budget.release(len(arrivals) * self._pixel_bytes)
            with self._lock:
                self._in_flight -= len(arrivals)
                last = self._in_flight == 0
            for shard, outcome in arrivals:
                if isinstance(outcome, Failure):
                    self._failures.add(outcome)
                    self._finish(shard, outcome)
                else:
                    self._failures.add(None)
                    batch.append((shard, outcome))
                if len(batch) >= self._batches.size:
                    batch = self._run_batch(batch)
            if batch and last:
                batch = self._run_batch(batch)
            self._finish_batches(0 if last else self._at_once)
        wait([captioned for _, captioned in self._running])  # none, unless the engine has failed

    def _run_batch(self, batch: Batch) -> Batch:
        """Starts it, as soon as there is room for one more; the next batch, empty."""
        self._finish_batches(self._at_once - 1)
        batch[0][0].batch_fill.append(100 * len(batch) // self._batches.size)
        self._running.append((batch, self._start([image for _, image in batch])))
        return []

    def _finish_batches(self, left: int) -> None:
        """Those that are done, and others until no more than `left` are under way."""
        while self._running and (len(self._running) > left or self._running[0][1].done()):
            self._finish_batch()

    def _start(self, images: list[DecodedImage]) -> Future[Captioned]:
        """Captions a batch in a thread of its own; not an executor's, for a device may hang."""
        done: Future[Captioned] = Future()

        def run() -> None:
            try:
                done.set_result(self._caption(images))
            except BaseException as error:
                done.set_exception(error)

        threading.Thread(target=run, name="batch", daemon=True).start()
        return done

    def _caption(self, images: list[DecodedImage]) -> Captioned:
        started = time.monotonic()
        self._model_time.transition(to="model")
        try:
            return self._batches.caption(images), time.monotonic() - started
        finally:
            self._model_time.transition(from_="model")

    def _finish_batch(self) -> None:
        """Waits for the oldest of the batches under way."""
        batch, captioned = self._running.popleft()
        outcomes, seconds = captioned.result()
        for (shard, image), outcome in zip(batch, outcomes, strict=True):
            shard.spent("caption", seconds / len(batch))
            if isinstance(outcome, Failure):
                self._failures.revoke(outcome)
            else:
                shard.thumbnails.offer(image, outcome)
            self._finish(shard, outcome)

    def _finish(self, shard: OpenShard, outcome: CaptionedImage | Failure) -> None:
        self._progress.add(isinstance(outcome, Failure), self._model_time.seconds)
        if shard.add(outcome):
            self._model_time.transition(to="write")
            with self._lock:
                if self._broken:
                    return
                self._open.remove(shard)
            self._writer.submit(self._commit, shard)

    def _commit(self, shard: OpenShard) -> None:
        try:
            report = shard.commit(self._run, self._model_version, self._several, self._min_score)
            self._model_time.transition(from_="write")
            shard.done.set_result(shard.result(report, self._model_time.take()))
        except BaseException as error:
            self.fail(error)
            shard.done.set_exception(error)


def _broken_off(error: BaseException) -> RuntimeError:
    """An Exception, which Beam's workers report, whatever `error` is."""
    broken = RuntimeError(f"the model's thread broke off: {error!r}")
    broken.__cause__ = error
    return broken
