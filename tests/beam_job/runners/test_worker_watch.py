"""What Beam's threads print when a worker is gone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import grpc
import pytest
from apache_beam.runners.worker.data_plane import _GrpcDataChannel

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
