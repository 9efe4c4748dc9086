"""Dask without workers: what the log says while nothing goes on; and whether the workers are of this machine."""

from __future__ import annotations

import logging
import threading
from types import SimpleNamespace

import pytest

from beam_job.config import JobConfig
from beam_job.runners.beam_options import beam_options
from beam_job.runners.dask_cluster import is_local_cluster, log_lack_of_workers

pytest.importorskip("distributed")


class Client:
    """A cluster whose workers come and go: one more or less each time that it is asked."""

    def __init__(self, *seen: int) -> None:
        self._seen = list(seen)
        self.asked = threading.Event()  # to the end
        self.scheduler = SimpleNamespace(address="tcp://10.0.0.1:8786")

    def nthreads(self) -> dict[str, int]:
        if len(self._seen) == 1:
            self.asked.set()
            return dict.fromkeys(range(self._seen[0]), 2)
        return dict.fromkeys(range(self._seen.pop(0)), 2)


@pytest.mark.parametrize(
    ("seen", "lines"),
    [
        pytest.param([0] * 30, 1, id="none"),
        pytest.param([2] * 30, 0, id="some"),
        pytest.param([*([0] * 30), 1, *([0] * 30)], 2, id="again"),
    ],
)
def test_a_cluster_without_workers_is_logged_once(
    seen: list[int], lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(*seen)
    with caplog.at_level(logging.WARNING), log_lack_of_workers(client, patience_s=0.02):
        assert client.asked.wait(60)
    line = "waiting for workers: the Dask scheduler at tcp://10.0.0.1:8786 has had none for 0 s"
    assert caplog.messages == [line] * lines


@pytest.mark.parametrize(
    ("arguments", "is_local"),
    [
        pytest.param(["--runner=DaskRunner"], True, id="made here"),
        pytest.param(["--runner=DaskRunner", "--dask_client_address=tcp://10.0.0.1:8786"], False, id="address"),
        pytest.param(["--runner=DaskRunner", "--dask_scheduler_file=s.json"], False, id="file"),
        pytest.param([], False, id="no Dask"),
    ],
)
def test_whose_workers_they_are(arguments: list[str], is_local: bool) -> None:
    assert is_local_cluster(beam_options(JobConfig(("x",), "out"), arguments, [])) == is_local
