"""What Beam's threads print when a worker is gone."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable

import grpc
import pytest
from apache_beam.runners.worker.data_plane import _GrpcDataChannel

from beam_job.cli.signals import stopped_workers
from beam_job.runners.worker_watch import WorkerDiedError, WorkerWatch


def lost_connection() -> None:
    """Beam's own reading thread, whose stream ends as that of a killed worker does."""

    def elements() -> None:
        raise grpc.RpcError
        yield

    _GrpcDataChannel._read_inputs(_GrpcDataChannel(data_buffer_time_limit_ms=0), elements())


def other_error() -> None:
    raise grpc.RpcError("of the user's own connection")


def run_in_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(("work", "printed"), [(lost_connection, []), (other_error, [grpc.RpcError])])
def test_only_lost_connections_of_beam_are_silent(
    work: Callable[[], None], printed: list[type], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[type] = []
    monkeypatch.setattr(threading, "excepthook", lambda event: seen.append(event.exc_type))
    with contextlib.suppress(WorkerDiedError), WorkerWatch(lambda: True).exit_codes_noted():
        run_in_thread(work)
        raise WorkerDiedError
    run_in_thread(work)  # the other workers are killed after the block
    assert seen == printed * 2


@pytest.mark.parametrize(
    ("code", "grace_s", "how"),
    [
        pytest.param(0, 30.0, "exit code 0", id="exit of a library"),  # as workers end after a run, too
        pytest.param(137, 5.0, "signal 9, SIGKILL", id="killed"),
    ],
)
def test_a_dead_worker_is_reported_when_it_has_been_gone_for_a_while(code: int, grace_s: float, how: str) -> None:
    def work() -> None:
        end.wait()
        if code:
            raise RuntimeError(f"Worker subprocess exited with return code {code}")  # as Beam's thread does

    now, end, left = [0.0], threading.Event(), [True]
    watch = WorkerWatch(lambda: left[0], lambda: now[0])
    thread = threading.Thread(target=work, name="run_worker")
    with watch.exit_codes_noted():
        thread.start()
        watch.check()
        now[0] += 3600.0
        watch.check()
        end.set()
        thread.join()
        watch.check()
        now[0] += grace_s - 0.1
        watch.check()
        now[0] += 0.1
        left[0] = False
        watch.check()  # the run has ended, and its workers with it
        left[0] = True
        with pytest.raises(WorkerDiedError, match=rf"died \({how}\) with work left"):
            watch.check()


def test_a_stopped_worker_is_reported_after_a_minute_of_looks() -> None:
    now, stopped = [0.0], [7]
    watch = WorkerWatch(lambda: True, lambda: now[0], lambda: stopped)
    watch.check()
    now[0] += 3600.0  # Ctrl-Z, and an hour later `fg`
    watch.check()
    stopped.clear()
    now[0] += 5.0
    watch.check()
    stopped.append(8)
    for _ in range(12):
        now[0] += 5.0
        watch.check()
    now[0] += 5.0
    with pytest.raises(WorkerDiedError, match="the worker process 8 has been stopped for 60 s"):
        watch.check()


def test_a_stopped_worker_is_seen_below_this_process() -> None:
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.raise_signal(signal.SIGSTOP)"]) as child:
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        try:
            assert child.pid in stopped_workers()
        finally:
            child.kill()
    assert child.pid not in stopped_workers()
