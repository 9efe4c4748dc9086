"""Fetches, decodes and captions images, with overlapping steps: the core of the job and of `CaptionImages`.

    submit ──> the loader ────────> the model's thread ──> complete
               fetches, decodes     draws, makes batches

An image belongs to the loader from `submit` until the model's thread draws its outcome from the loader's queue, and to
the model's thread until its row is in its group, a shard or a single image.

The next images are fetched and decoded while the model works on the last ones, and a batch may hold images of several
groups. The model waits only if images arrive too slowly. On a GPU two batches run at the same time, one being copied
to the device while it computes the other, and the loader has processes instead of threads.

An error that affects every image (expired credentials, a spent failure budget) fails the whole engine: the groups in
progress fail with it, and so does every later `submit`.
"""

from __future__ import annotations

import abc
import queue
import threading
import time
from typing import Generic

from beam_job.captioning.batch_runner import BatchRunner, FinishedBatch
from beam_job.captioning.budgets import FailureBudget
from beam_job.captioning.captioners import AnyCaptioner, side_of, takes_pictures
from beam_job.captioning.contents import Answer, Claim, Contents
from beam_job.captioning.copies import Copies
from beam_job.captioning.image_group import G
from beam_job.captioning.progress_file import ProgressFile
from beam_job.config import JobConfig
from beam_job.loading.load_config import LoadConfig
from beam_job.loading.loader import Loader, LoadEvent
from beam_job.loading.process_loader import ProcessLoader
from beam_job.loading.thread_loader import ThreadLoader
from beam_job.output.stage_clock import StageClock
from beam_job.records import RUN_ENDED, CaptionedImage, DecodedImage, Failure, ImageInput, now
from model import CaptionerError

_SETTLE_SECONDS = 60.0  # for a batch under way, when another engine is to have the captioner
_POLL_SECONDS = 0.05  # between looks at what another process captions


class ImageEngine(abc.ABC, Generic[G]):
    """Captions images; `submit`, `close` and `fail` may be called from any thread.

    Args:
      config: the job's.
      captioner: called in batches, as many at a time as it says.
      batch_size: images in a batch.
      gpu: load images in processes.
      progress: counts the images that are done, and logs messages.
      failures: counts outcomes, and decides whether to go on.
      contents: what the run has captioned, by content; None if copies are captioned like all others.
    """

    def __init__(
        self,
        config: JobConfig,
        captioner: AnyCaptioner,
        batch_size: int,
        gpu: bool,
        progress: ProgressFile,
        failures: FailureBudget,
        input_size: int | None = None,
        contents: Contents | None = None,
    ) -> None:
        self._config = config
        self._progress = progress
        self._failures = failures
        self._captioner = captioner
        load_config = LoadConfig.of(config, input_size or side_of(captioner), gpu, takes_pictures(captioner))
        self._clock = StageClock(load_config.decode_threads)
        self._batches: BatchRunner[G] = BatchRunner(captioner, batch_size, config, progress.log, self._clock)
        self._loader: Loader = ProcessLoader(load_config) if gpu else ThreadLoader(load_config)
        self._copies: Copies[G] | None = None if contents is None else Copies(contents, config.prompts)
        self._open: set[G] = set()
        self._error: BaseException | None = None
        self._ended: str | None = None  # why the captioner leaves all other images for the next run
        self._lock = threading.Condition()  # guards _open and _error, and is notified when they change
        self._model_thread = threading.Thread(target=self._run_model, name="caption", daemon=True)
        self._model_thread.start()

    @property
    def model_version(self) -> str:
        """The captioner's."""
        return self._captioner.version

    @property
    def ran_with(self) -> tuple[str, str, int]:
        """What runs the captioner, its precision, and the present size of its batches."""
        return self._batches.ran_with

    @property
    def has_failed(self) -> bool:
        """Whether every `submit` fails from now on."""
        with self._lock:
            return self._error is not None

    def submit_group(self, group: G) -> None:
        """Takes images in, without waiting; `group.done` is resolved when all have their rows, or fails."""
        with self._lock:
            if self._error:
                group.done.set_exception(self._error)
                return
            self._open.add(group)
        self._clock.transition(to="fetch", count=len(group.images))
        if self._ended is None:
            self._loader.put(group, group.images)
        else:
            self._loader.put_failures(group, [_left(image, self._ended) for image in group.images])

    def close(self) -> None:
        """Finishes what was submitted, unless the engine has failed, and ends all threads."""
        with self._lock:
            self._lock.wait_for(lambda: self._error or not self._open)
        self._loader.close()
        self._model_thread.join()
        if self._copies is not None:
            self._copies.close()
        self._progress.close()

    def fail(self, error: BaseException) -> None:
        """Fails the groups in progress and all later ones with `error`; only complete groups are written.

        Images that wait to be fetched, decoded or captioned are dropped; a batch in progress is finished, and a fetch
        in progress is not interrupted. If there are several errors, the first one is used.
        """
        with self._lock:
            if self._error:
                return
            self._error = error
            under_way, self._open = self._open, set()
            self._lock.notify_all()
        self._loader.stop()
        for group in under_way:
            group.done.set_exception(error)

    def settle(self, timeout: float) -> None:
        """After `fail`: waits `timeout` seconds for the batch under way."""
        self._model_thread.join(timeout)

    def take_captioner(self) -> AnyCaptioner | None:
        """After `fail`: the captioner, to be used by another engine; None if it does not become free in time."""
        self._model_thread.join(_SETTLE_SECONDS)
        return None if self._model_thread.is_alive() or self._batches.is_running else self._captioner

    @abc.abstractmethod
    def _complete(self, group: G) -> None:
        """Called in the model's thread when all images of a group have their rows."""

    def _remove(self, group: G) -> bool:
        """Ends a group's time in the engine; False if it has failed with the engine."""
        with self._lock:
            if self._error:
                return False
            self._open.remove(group)
            self._lock.notify_all()
        return True

    def _run_model(self) -> None:
        """The model's thread."""
        try:
            while (events := self._next_events()) is not None:
                self._take(events)
        except Exception as error:
            self.fail(error)
        except BaseException as error:  # nobody may wait for rows that never come
            self.fail(_as_exception(error))
        self._batches.wait()

    def _next_events(self) -> list[LoadEvent] | None:
        """Waits for events, but not for long while copies wait for another process; None at the end."""
        waits = self._copies is not None and self._copies.wait_for_others
        try:
            return self._loader.get(_POLL_SECONDS if waits else None) or None
        except queue.Empty:
            return []

    def _take(self, events: list[LoadEvent]) -> None:
        """Puts images into batches, and runs each when it is full or when no more images are on their way."""
        self._poll_copies()
        is_last = not self._loader.pending
        for event in events:
            group, outcome = event.key, event.outcome
            if outcome is None:
                self._clock.transition(from_="fetch", to="decode")
                self._failures.count_fetched()
                continue
            self._clock.transition(from_="fetch" if event.file_bytes is None else "decode")
            group.count_load(event)
            self._failures.add(outcome if isinstance(outcome, Failure) else None)
            if isinstance(outcome, Failure):
                self._finish(group, outcome)
            else:
                self._caption(group, outcome)
        self._finish_all(self._batches.flush() if is_last else self._batches.take_finished())

    def _caption(self, group: G, image: DecodedImage) -> None:
        """Puts an image into the next batch, unless another image with its content is, was or will be in one."""
        claim = Claim.MINE if self._copies is None else self._copies.claim(group, image)
        if isinstance(claim, Answer):
            self._finish_copy(group, image, claim)
        elif claim is Claim.MINE and self._ended is not None:
            self._settle(group, image, _left(image.input, self._ended))
        elif claim is Claim.MINE:
            self._finish_all(self._batches.add(group, image))
        else:
            self._bound_waiting()

    def _bound_waiting(self) -> None:
        """Limits the copies that wait to the size of a batch, since each holds its pixels.

        The current batch is run first, so that two processes that wait here do not wait for each other.
        """
        assert self._copies is not None
        _, _, most = self._batches.ran_with
        while self._copies.waiting >= most and not self.has_failed:
            self._finish_all(self._batches.flush())
            self._poll_copies()
            if self._copies.waiting >= most:
                time.sleep(_POLL_SECONDS)

    def _poll_copies(self) -> None:
        """Finishes copies whose content another process has captioned."""
        for group, image, claim in [] if self._copies is None else list(self._copies.poll()):
            if isinstance(claim, Answer):
                self._finish_copy(group, image, claim)
            else:
                self._finish_all(self._batches.add(group, image))

    def _finish_all(self, batches: list[FinishedBatch[G]]) -> None:
        for batch in batches:
            for group, image, outcome in batch.rows:
                group.count_seconds("caption", batch.seconds / len(batch.rows))
                self._settle(group, image, outcome)

    def _settle(self, group: G, image: DecodedImage, outcome: CaptionedImage | Failure) -> None:
        """Finishes an image, and the copies that waited for it."""
        self._finish_captioned(group, image, outcome)
        if self._copies is not None:
            answer, waiting = self._copies.settle(group, image, outcome)
            for copy in waiting:
                self._finish_copy(*copy, answer)

    def _finish_copy(self, group: G, image: DecodedImage, answer: Answer) -> None:
        if answer.uri != image.input.uri:  # else it is the same image, in an earlier attempt at its shard
            group.count_copy()
        self._finish_captioned(group, image, answer.of(image, now()))

    def _finish_captioned(self, group: G, image: DecodedImage, outcome: CaptionedImage | Failure) -> None:
        if isinstance(outcome, Failure):
            self._failures.revoke(outcome)
            if outcome.error_type == RUN_ENDED and self._ended is None:
                self._ended = outcome.error_message
                self._progress.log(f"{self._ended}; all other images are left for the next run")
        else:
            group.offer(image, outcome)
        self._finish(group, outcome)

    def _finish(self, group: G, outcome: CaptionedImage | Failure) -> None:
        """Adds an image's row to its group."""
        self._progress.add(isinstance(outcome, Failure), self._clock.seconds)
        if group.add(outcome):
            self._complete(group)


def _left(image: ImageInput, reason: str) -> Failure:
    """The failure of an image that is left for the next run."""
    return Failure(image.uri, "caption", RUN_ENDED, reason, True, image.object_version)


def _as_exception(error: BaseException) -> Exception:
    """An Exception, which Beam's workers report, for a SystemExit or KeyboardInterrupt."""
    if isinstance(error, SystemExit):
        return CaptionerError(f"the captioner called exit({error.code!r}) instead of captioning a batch")
    return RuntimeError(f"the model's thread was interrupted: {error!r}")
