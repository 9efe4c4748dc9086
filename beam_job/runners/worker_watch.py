"""Notices that a worker process of a local run has ended before its work was done, or has been stopped.

If a worker is killed (because memory ran out, because a captioner crashed, or by hand), Beam's in-process runner waits
for it forever: nothing tells its queues that no result will come. The runner has a thread for each worker process,
which waits for that process; if such a thread ends while shards are left, the worker has died.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import grpc

from beam_job.loading.child_process import format_exit_code

_BEAM_S_THREAD = "run_worker"  # of apache_beam.runners.portability.fn_api_runner.worker_handlers
_EXIT_CODE = "exited with return code "
# Workers of a run that has ended go one after the other, and so do those of one that reports an error, with code 0.
_GRACE_S = 5.0
_GRACE_AFTER_0_S = 30.0
_STOPPED_S = 60.0
_LOOK_EVERY_S = 5.0


class WorkerDiedError(RuntimeError):
    """A worker process ended, or was stopped, before its work was done; the message says how, as far as it is known."""


class WorkerWatch:
    """Watches the worker processes that Beam starts from this process.

    Args:
      unfinished: whether work is left; called only when a worker has ended.
      clock: seconds.
      stopped: the process ids of workers that a signal has stopped; such a worker's own timeouts stand still with it.
    """

    def __init__(
        self,
        unfinished: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        stopped: Callable[[], Collection[int]] = tuple,
    ) -> None:
        self._unfinished = unfinished
        self._clock = clock
        self._stopped = stopped
        self._looks: Counter[int] = Counter()
        self._looked = -_LOOK_EVERY_S
        self._seen: set[threading.Thread] = set()
        self._gone_since: float | None = None
        self._exit_code: int | None = None

    def check(self) -> None:
        """Raises WorkerDiedError if a worker has been gone or stopped for a while, and work is left."""
        self._check_stopped()
        self._seen.update(thread for thread in threading.enumerate() if thread.name == _BEAM_S_THREAD)
        if all(thread.is_alive() for thread in self._seen):
            return
        now = self._clock()
        if self._gone_since is None:
            self._gone_since = now
        grace = _GRACE_S if self._exit_code else _GRACE_AFTER_0_S
        if now - self._gone_since >= grace and self._unfinished():
            raise WorkerDiedError(self._message())

    def _check_stopped(self) -> None:
        """Counts looks, not seconds: Ctrl-Z stops this process too, and it goes on together with its workers."""
        if self._clock() - self._looked < _LOOK_EVERY_S:
            return
        self._looked = self._clock()
        self._looks = Counter({process: self._looks[process] + 1 for process in self._stopped()})
        for process, looks in self._looks.items():
            if looks * _LOOK_EVERY_S > _STOPPED_S and self._unfinished():
                raise WorkerDiedError(
                    f"the worker process {process} has been stopped for {_STOPPED_S:.0f} s (SIGSTOP, or a debugger)"
                )

    @contextmanager
    def exit_codes_noted(self) -> Iterator[None]:
        """In this block the exit codes that Beam's threads raise are kept for the message, not printed.

        Its threads that read from a worker raise an RpcError once that worker is gone. `check` reports the worker, so
        their tracebacks would only hide its line. Some come when the other workers are killed, after a block that
        failed: these are dropped as well.
        """
        previous = threading.excepthook

        def note(event: threading.ExceptHookArgs) -> None:
            text = str(event.exc_value)
            if event.thread is not None and event.thread.name == _BEAM_S_THREAD and _EXIT_CODE in text:
                self._exit_code = int(text.rpartition(_EXIT_CODE)[2])
            elif not _is_lost_connection(event):
                previous(event)

        threading.excepthook = note
        yield
        threading.excepthook = previous

    def _message(self) -> str:
        code = self._exit_code or 0
        how = format_exit_code(-(code - 128) if code > 128 else code)  # 128 and more are a shell's word for a signal
        hint = "; a killed worker often means too little memory: try fewer --workers" if "SIGKILL" in how else ""
        return f"a worker process died ({how}) with work left{hint}"


def _is_lost_connection(event: threading.ExceptHookArgs) -> bool:
    """Whether a thread of Beam's ended because the process at the other end is gone."""
    frames = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(event.exc_traceback))
    return issubclass(event.exc_type, grpc.RpcError) and any(name.startswith("apache_beam.") for name in frames)
