"""Images fetched and decoded in processes, where a GPU waits for them: one a core, each with threads of its own.

With threads that fetched, and processes that only decoded, a host of 16 cores and an H200 came to 1,819 images a
second, both half idle; with these processes to 3,324. Presumably that is Python's lock, which each image took and gave
again and again in the model's process. So each process takes some images at a time, and answers with a group of them:
the numbers through a socket, the pixels in memory that both see.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import operator
import queue
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

from beam_job.loading.child_process import ChildStartError, exit_told, join_parent, start_child, tell_ready
from beam_job.loading.loader import LoadConfig, Loaded, Receiver, ThreadLoader
from beam_job.records import DecodedImage, Failure, ImageInput
from beam_job.storage import LATER, CredentialsError

GROUP = 16  # images of a message
_LINGER = 0.05  # seconds that a message waits for its group to fill
_PROGRAM = "from beam_job.loading.process_loader import main; main()"


class LoadProcessError(RuntimeError):
    """A process for loading could not be started, or died of an image."""


@dataclasses.dataclass
class _Task:
    key: Any
    image: ImageInput
    size: int | None = None  # of the file, once the receiver has been told
    is_suspect: bool = False  # a process had it when it died


# Messages are tuples, which take a fifth of a dataclass's time to pickle. Of an image given: its number, and the fields
# of `ImageInput`. Of one that is done: its number, seconds of fetching and decoding, and its failure or its width,
# height and version; the pixels of a group lie one after the other in the shared memory.
_Given = tuple[Any, ...]
_fields = operator.attrgetter(*(field.name for field in dataclasses.fields(ImageInput)))
_Decoded = tuple[int, int, str]
_Row = tuple[int, tuple[float, float], Failure | _Decoded]
# Numbers and bytes of the images fetched, rows of those that are done, and why no more can be.
_Reply = tuple[list[tuple[int, int]], list[_Row], BaseException | None]


class ProcessLoader:
    """A `Loader` of processes, each with its share of the threads.

    What a process that dies had is tried again in the next one, image by image; one that is alone with the second death
    fails.

    Args:
      receiver: told of the images.
      config: threads of all processes together; there is a process for each of `decode_threads`.
      program: what a process runs, in Python.
    """

    def __init__(self, receiver: Receiver, config: LoadConfig, program: str = _PROGRAM) -> None:
        self._receiver = receiver
        processes = config.decode_threads
        self._config = dataclasses.replace(
            config, fetch_threads=-(-config.fetch_threads // processes), decode_threads=1
        )
        self._program = program
        # A process has a group under way, one that is complete, and one that is to be fetched.
        self._window = 3 * GROUP + self._config.fetch_threads
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._serve, name=f"load-{number}", daemon=True) for number in range(processes)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, key: Any, image: ImageInput) -> None:
        self._tasks.put(_Task(key, image))

    def close(self) -> None:
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            while thread.is_alive() and not self._stopped.is_set():
                thread.join(0.1)

    def stop(self) -> None:
        self._stopped.set()

    def _serve(self) -> None:
        """The life of one process and of those that take its place."""
        process = None
        waiting: dict[int, _Task] = {}  # what it has, by number
        suspects: collections.deque[_Task] = collections.deque()  # what is tried again, one by one
        numbers = itertools.count()
        try:
            while not self._stopped.is_set():
                given = self._next(waiting, suspects)
                if not given and not waiting:
                    return
                numbered = {next(numbers): task for task in given}
                waiting |= numbered
                process = process or _Process(self._program, self._config)
                try:
                    reply, pixels = process.exchange(
                        [(number, *_fields(task.image)) for number, task in numbered.items()]
                    )
                except (OSError, EOFError):
                    self._after_death(process.end(), waiting, suspects)
                    process = None
                else:
                    self._tell(reply, pixels, waiting)
        except BaseException as error:
            self._receiver.fail(error)
        finally:
            if process:
                process.end()

    def _next(self, waiting: dict[int, _Task], suspects: collections.deque[_Task]) -> list[_Task]:
        """What to give to the process: nothing where it has enough, and where nothing more will come."""
        if suspects:
            return [] if waiting else [suspects.popleft()]
        given: list[_Task] = []
        while len(waiting) + len(given) < self._window:
            try:
                task = self._tasks.get(block=not waiting and not given)
            except queue.Empty:
                break
            if task is None:
                self._tasks.put(None)  # for the next time, and for others
                break
            given.append(task)
        return given

    def _after_death(self, code: int, waiting: dict[int, _Task], suspects: collections.deque[_Task]) -> None:
        """All that it had is tried again, but an image that it was alone with, and not for the first time."""
        alone = len(waiting) == 1
        for task in waiting.values():
            if alone and task.is_suspect:
                died = LoadProcessError(f"the process that loaded it died ({exit_told(code)})")
                failure = Failure.of(task.image.uri, "decode", died, task.image.object_version, LATER)
                loaded = Loaded(failure, task.size, 0.0)
                self._receiver.loaded([(task.key, loaded)])
            else:
                task.is_suspect = True
                suspects.append(task)
        waiting.clear()

    def _tell(self, reply: _Reply, pixels: npt.NDArray[np.uint8], waiting: dict[int, _Task]) -> None:
        fetched, rows, error = reply
        if error:
            raise error
        sizes = []
        for number, size in fetched:
            task = waiting[number]
            if task.size is None:  # else it was told before a process died
                task.size = size
                sizes.append((task.key, size))
        if sizes:
            self._receiver.fetched(sizes)
        decoded = iter(pixels)
        done = []
        for number, seconds, found in rows:
            task = waiting.pop(number)
            outcome = found if isinstance(found, Failure) else DecodedImage(task.image, next(decoded), *found)
            done.append((task.key, Loaded(outcome, task.size, *seconds)))
        if done:
            self._receiver.loaded(done)


class _Process:
    """A running process of `main`."""

    def __init__(self, program: str, config: LoadConfig) -> None:
        size = config.input_size
        try:
            self._child = start_child(program, GROUP * 3 * size**2)
            self._child.socket.settimeout(None)
            self._connection = Connection(self._child.socket.detach())
            self._connection.send(config)
        except (ChildStartError, OSError) as error:
            raise LoadProcessError(f"no process for loading images could be started: {error}") from error
        self._pixels = self._child.memory.reshape(GROUP, size, size, 3)

    def exchange(self, images: list[_Given]) -> tuple[_Reply, npt.NDArray[np.uint8]]:
        """Gives images, and takes what has been done meanwhile, which may be nothing.

        Raises:
          OSError, EOFError: the process has died.
        """
        self._connection.send(images)
        reply: _Reply = self._connection.recv()
        decoded = sum(not isinstance(found, Failure) for _, _, found in reply[1])
        return reply, self._pixels[:decoded].copy()

    def end(self) -> int:
        """Ends it; its exit code."""
        self._connection.close()
        return self._child.end()


class _Group:
    """A process's receiver: keeps what is done until it is told."""

    def __init__(self, pixels: npt.NDArray[np.uint8]) -> None:
        self.under_way = 0
        self._pixels = pixels
        self._fetched: collections.deque[tuple[int, int]] = collections.deque()
        self._loaded: queue.SimpleQueue[tuple[int, Loaded]] = queue.SimpleQueue()
        self._error: BaseException | None = None

    def fetched(self, sizes: Sequence[tuple[int, int]]) -> None:
        self._fetched.extend(sizes)

    def loaded(self, images: Sequence[tuple[int, Loaded]]) -> None:
        for image in images:
            self._loaded.put(image)

    def fail(self, error: BaseException) -> None:
        self._error = error if isinstance(error, CredentialsError) else RuntimeError(repr(error))  # that can be sent

    def take(self) -> _Reply:
        """What is done by now, or soon."""
        rows: list[_Row] = []
        place = 0
        until = time.monotonic() + _LINGER
        while len(rows) < GROUP and self.under_way and not self._error:
            try:
                number, loaded = self._loaded.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            self.under_way -= 1
            outcome, seconds = loaded.outcome, (loaded.fetch_seconds, loaded.decode_seconds)
            if isinstance(outcome, Failure):
                rows.append((number, seconds, outcome))
            else:
                self._pixels[place] = outcome.pixels
                place += 1
                rows.append((number, seconds, (outcome.width, outcome.height, outcome.object_version)))
        # After the rows: an image is fetched before it is done.
        fetched = [self._fetched.popleft() for _ in range(len(self._fetched))]
        return fetched, rows, self._error


def main() -> None:
    """In the process: loads what it is given, until the other end is closed."""
    socket, memory, _ = join_parent()
    tell_ready(socket)
    connection = Connection(socket.detach())
    config: LoadConfig = connection.recv()
    group = _Group(memory.reshape(GROUP, config.input_size, config.input_size, 3))
    loader = ThreadLoader(group, config)
    try:
        while True:
            for number, *image in connection.recv():
                group.under_way += 1
                loader.put(number, ImageInput(*image))
            connection.send(group.take())
    except (EOFError, OSError):
        loader.stop()
