"""SIGTERM and Ctrl-C: the first stops the job cleanly within seconds, the second immediately."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

GRACE_S = 8.0  # service managers allow 10 s or more before they kill


class Stopped(KeyboardInterrupt):
    """A signal has asked the job to end; not an Exception, so that nothing takes it for a failure of the work.

    Attributes:
      exit_code: 128 plus the number of the signal, as in shells.
      state: what has been written so far, for the last message.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number
        self.state = "nothing has been written yet"


class Terminal:
    """The stderr that the command was started with, for the last message, wherever stderr has been redirected since."""

    def __init__(self) -> None:
        self._descriptor = os.dup(2)

    def write_line(self, line: str) -> None:
        """Writes a line."""
        with contextlib.suppress(OSError):  # it may be closed by now
            os.write(self._descriptor, f"{line}\n".encode("utf-8", "replace"))

    def close(self) -> None:
        """Closes the descriptor."""
        os.close(self._descriptor)


@contextlib.contextmanager
def stop_on_signals(last_words: str) -> Iterator[Terminal]:
    """In this block SIGTERM and Ctrl-C raise `Stopped` in the main thread; elsewhere it does nothing.

    If the process still runs `GRACE_S` seconds later, or at a second signal, it is ended at once with its workers.

    Args:
      last_words: the line to write in that case.

    Yields:
      where to write the last line after a signal.
    """
    with contextlib.closing(Terminal()) as terminal:
        if threading.current_thread() is threading.main_thread():
            with _watched(terminal, last_words), _raising():
                yield terminal
        else:
            yield terminal


@contextlib.contextmanager
def _raising() -> Iterator[None]:
    asked = False

    def handle(number: int, _: FrameType | None) -> None:
        nonlocal asked
        if not asked:
            asked = True
            raise Stopped(number)

    # A shell starts background jobs with Ctrl-C ignored, and means it.
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _watched(terminal: Terminal, last_words: str) -> Iterator[None]:
    """Ends the process after a signal even if the main thread is stuck in a call and has not noticed it."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def watch() -> None:
        first = os.read(reading, 1)[0]
        in_time = bool(first) and bool(select.select([reading], [], [], GRACE_S)[0])
        second = os.read(reading, 1)[0] if in_time else 0
        if second or (first and not in_time):
            if not second:
                terminal.write_line(last_words)
            end_process(128 + (second or first))

    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    before = signal.set_wakeup_fd(writing)  # gets each signal's number, at once
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.write(writing, b"\0")
        watcher.join()
        os.close(reading)
        os.close(writing)


def end_process(exit_code: int) -> NoReturn:
    """Ends this process and its workers now; Python's own exit waits for threads that may hang in a read."""
    end_workers()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(exit_code)


def child_processes() -> frozenset[int]:
    """The descendants of this process, to be spared by `end_workers` where they are another's."""
    return frozenset(_processes_below(os.getpid()))


def end_workers(spared: Collection[int] = ()) -> None:
    """Kills the descendants of this process; what they have not committed is done again by the next run.

    Args:
      spared: processes that another part of this program had started before the run, with all below them.
    """
    for _ in range(20):  # a worker may be starting another
        below = _processes_below(os.getpid(), spared)
        for process in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        if not below:
            return
        time.sleep(0.05)


def stopped_workers() -> list[int]:
    """The descendants of this process that a signal has stopped; none where there is no /proc."""
    stopped = []
    if sys.platform == "linux":
        for process in _processes_below(os.getpid()):
            with contextlib.suppress(OSError):  # it has just ended
                if Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] == "T":
                    stopped.append(process)
    return stopped


def _processes_below(ancestor: int, without: Collection[int] = ()) -> list[int]:
    parents = _parents()
    below = [ancestor]
    for process in below:  # grows on the way
        below += [child for child, parent in parents.items() if parent == process and child not in without]
    return below[1:]


def _parents() -> dict[int, int]:
    """The parent of each process that lives; zombies are left out."""
    if sys.platform == "linux":
        rows: list[tuple[str, str, str]] = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has just ended
                state, parent = stat.read_text(errors="replace").rpartition(")")[2].split()[:2]
                rows.append((stat.parent.name, parent, state))
    else:
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=False)
        rows = [(process, parent, state) for process, parent, state, *_ in map(str.split, listed.stdout.splitlines())]
    return {int(process): int(parent) for process, parent, state in rows if not state.startswith("Z")}
