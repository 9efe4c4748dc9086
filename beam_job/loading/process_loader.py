"""Fetches and decodes images in processes, one per core and each with its own threads, when a GPU waits for them.

With threads that fetched, and processes that only decoded, a host of 16 cores and an H200 loaded 1,819 images a second,
both half idle; with these processes 3,324. The cause is presumably Python's global interpreter lock, which each image
acquired many times in the model's process. So each process takes several images at a time and returns them in groups:
metadata through a connection, pixels in shared memory.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import queue
from typing import Any

import numpy as np
import numpy.typing as npt

from beam_job.loading.child_process import ChildStartError, format_exit_code, start_child
from beam_job.loading.load_config import LoadConfig
from beam_job.loading.load_worker import GROUP, Answer, Decoded, fields_of, shared_bytes
from beam_job.loading.loader import Loader, LoadEvent
from beam_job.records import DecodedImage, Failure, ImageInput
from beam_job.storage import LATER

# A process answers within a fraction of a second, with what is done by then; on a busy machine in some seconds.
_ANSWER_SECONDS = 120.0
_PROGRAM = "from beam_job.loading.load_worker import main; main()"


class LoadProcessError(RuntimeError):
    """A process for loading could not be started, or died or hung because of an image."""


@dataclasses.dataclass
class _Task:
    key: Any
    image: ImageInput
    file_bytes: int | None = None  # once its file has arrived
    is_suspect: bool = False  # a process had it when it died


class ProcessLoader(Loader):
    """A loader of processes, each with its share of the threads and of the bytes for files.

    The images of a process that dies or hangs are loaded again by the next one, one by one; an image that is alone
    when that happens again fails.

    Args:
      config: threads of all processes together; there is a process for each of `decode_threads`.
      program: Python code that a process runs.
      answer_seconds: the longest silence of a process before it is replaced.
    """

    def __init__(self, config: LoadConfig, program: str = _PROGRAM, answer_seconds: float = _ANSWER_SECONDS) -> None:
        super().__init__(config)
        processes = config.decode_threads
        self._share = dataclasses.replace(
            config,
            fetch_threads=-(-config.fetch_threads // processes),
            decode_threads=1,
            in_flight_bytes=max(1, config.in_flight_bytes // processes),
            access=config.access.shared_by(processes),
        )
        self._program = program
        self._answer_seconds = answer_seconds
        # A process has a group under way, one that is complete, and one that is to be fetched.
        self._window = 3 * GROUP + self._share.fetch_threads
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._threads = self._start("load", processes, self._serve)

    def _queue(self, key: Any, image: ImageInput) -> None:
        self._tasks.put(_Task(key, image))

    def _finish(self) -> None:
        self._end(self._threads, self._tasks)

    def _serve(self) -> None:
        """Runs one process, and those that take its place, until there are no more images."""
        process = None
        hand = _Hand()
        try:
            while not self._stopped.is_set():
                given = self._take_tasks(hand)
                if not given and not hand.tasks:
                    return
                process = process or _Process(self._program, self._share, self._answer_seconds)
                try:
                    answer, pixels = process.ask(hand.add(given))
                except TimeoutError:
                    process.end()
                    process = None
                    self._retry_alone(hand, f"did not answer for {self._answer_seconds:g} s")
                except (OSError, EOFError):
                    code = process.end()
                    process = None
                    self._retry_alone(hand, f"died ({format_exit_code(code)})")
                else:
                    self._take_answer(hand, answer, pixels)
        except BaseException as error:  # nobody else would see it
            self._fail(error)
        finally:
            if process:
                process.end()

    def _take_tasks(self, hand: _Hand) -> list[_Task]:
        """What to give to the process next: nothing if it has enough, or if there is no more."""
        if hand.suspects:
            return [] if hand.tasks else [hand.suspects.popleft()]
        given: list[_Task] = []
        pixel_bytes = self._config.pixel_bytes
        while len(hand.tasks) + len(given) < self._window:
            is_idle = not hand.tasks and not given
            if is_idle:
                self._budget.acquire(pixel_bytes)
            elif not self._budget.try_acquire(pixel_bytes):
                break
            try:
                task = self._tasks.get(block=is_idle)
            except queue.Empty:
                task = None
            else:
                if task is None:
                    self._tasks.put(None)  # for the next time, and for other threads
            if task is None:
                self._budget.release(pixel_bytes)
                break
            given.append(task)
        return given

    def _retry_alone(self, hand: _Hand, what: str) -> None:
        """Has all images of a lost process loaded again, except one that was alone with it, not for the first time."""
        tasks = list(hand.tasks.values())
        hand.tasks.clear()
        for task in tasks:
            if len(tasks) == 1 and task.is_suspect:
                error = LoadProcessError(f"the process that loaded it {what}")
                failure = Failure.of(task.image.uri, "decode", error, task.image.object_version, LATER)
                self._results.put([LoadEvent(task.key, failure, task.file_bytes)])
            else:
                task.is_suspect = True
                hand.suspects.append(task)

    def _take_answer(self, hand: _Hand, answer: Answer, pixels: list[npt.NDArray[np.uint8]]) -> None:
        fetched, rows, error = answer
        events = []
        for number, file_bytes in fetched:
            task = hand.tasks[number]
            if task.file_bytes is None:  # else its event was given before a process died
                task.file_bytes = file_bytes
                events.append(LoadEvent(task.key, None, file_bytes))
        decoded = iter(pixels)
        for number, seconds, found in rows:
            task = hand.tasks.pop(number)
            outcome = found if isinstance(found, Failure) else _decoded(task.image, next(decoded), found)
            events.append(LoadEvent(task.key, outcome, task.file_bytes, *seconds))
        if events:
            self._results.put(events)
        if error:
            raise error


def _decoded(image: ImageInput, pixels: npt.NDArray[np.uint8], found: Decoded) -> DecodedImage:
    width, height, version, image_columns, _ = found
    return DecodedImage(image, pixels, width, height, version, image_columns=image_columns)


class _Hand:
    """What a process has at hand.

    Attributes:
      tasks: given to it, by number.
      suspects: to be given one by one, because a process died or hung that had them.
    """

    def __init__(self) -> None:
        self.tasks: dict[int, _Task] = {}
        self.suspects: collections.deque[_Task] = collections.deque()
        self._numbers = itertools.count()

    def add(self, tasks: list[_Task]) -> list[tuple[Any, ...]]:
        """Notes tasks as given; returns them as a request."""
        numbered = {next(self._numbers): task for task in tasks}
        self.tasks |= numbered
        return [(number, *fields_of(task.image)) for number, task in numbered.items()]


class _Process:
    """A running `load_worker`."""

    def __init__(self, program: str, config: LoadConfig, answer_seconds: float) -> None:
        try:
            self._child = start_child(program, shared_bytes(config), answer_seconds)
        except ChildStartError as error:
            raise LoadProcessError(f"no process for loading images could be started: {error}") from error
        try:
            self._child.ask(config)
        except (OSError, EOFError) as error:
            code = format_exit_code(self._child.end())
            raise LoadProcessError(f"no process for loading images could be started: it ended ({code})") from error

    def ask(self, images: list[tuple[Any, ...]]) -> tuple[Answer, list[npt.NDArray[np.uint8]]]:
        """Gives images, and takes what has been done meanwhile, which may be nothing. Raises as `Child.ask`."""
        answer: Answer = self._child.ask(images)
        pixels: list[npt.NDArray[np.uint8]] = []
        start = 0
        for shape in (found[-1] for _, _, found in answer[1] if not isinstance(found, Failure)):
            end = start + 3 * shape[0] * shape[1]
            pixels.append(self._child.memory[start:end].reshape(*shape, 3).copy())
            start = end
        return answer, pixels

    def end(self) -> int:
        """Ends it; returns its exit code."""
        return self._child.end()
