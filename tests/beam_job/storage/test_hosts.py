"""Politeness towards web servers, with a clock of the test's own."""

from __future__ import annotations

import pytest

from beam_job.storage import Hosts, StorageError, host_of
from beam_job.storage.retry import Deadline

HOST = "museum.example"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hosts(clock: Clock) -> Hosts:
    return Hosts(clock)


def test_a_server_that_refuses_gets_fewer_requests_after_its_retry_after(hosts: Hosts, clock: Clock) -> None:
    assert (hosts.limit(HOST), hosts.pause(HOST)) == (4, 0.0)
    for _ in range(4):  # the requests of one moment count as one refusal
        hosts.refused(HOST, 30.0)
    assert (hosts.limit(HOST), hosts.pause(HOST)) == (2, 30.0)
    assert (hosts.limit("other.example"), hosts.pause("other.example")) == (4, 0.0)
    clock.now += 31
    hosts.refused(HOST, None)
    assert hosts.limit(HOST) == 1
    assert 0 < hosts.pause(HOST) <= 8


def test_answers_bring_the_requests_back(hosts: Hosts, clock: Clock) -> None:
    hosts.refused(HOST, 1.0)
    clock.now += 2
    hosts.refused(HOST, 1.0)
    found = []
    for _ in range(4):
        found.append(hosts.limit(HOST))
        for _ in range(10):
            hosts.answered(HOST)
    assert found == [1, 2, 3, 4]


def test_a_wait_beyond_the_deadline_is_not_begun(hosts: Hosts, clock: Clock) -> None:
    hosts.refused(HOST, 3600.0)
    with (
        pytest.raises(StorageError, match=r"x\.jpg: museum\.example asked to wait another 3600 s") as caught,
        hosts.request(HOST, Deadline.after(60.0, clock), "x.jpg"),
    ):
        pass
    assert (caught.value.cause, caught.value.transient) == ("HostBusy", False)


def test_servers_that_keep_failing_get_one_attempt_for_each_image(hosts: Hosts) -> None:
    for _ in range(8):
        assert hosts.has_patience(HOST)
        hosts.failed(HOST)
    assert not hosts.has_patience(HOST)
    hosts.answered(HOST)
    assert hosts.has_patience(HOST)


@pytest.mark.parametrize(
    ("uri", "host"),
    [
        ("https://User:pass@Museum.Example:8080/x.jpg?a=b", "museum.example:8080"),
        ("HTTP://museum.example", "museum.example"),
        ("http://[::1/x.jpg", ""),
        ("gs://bucket/x.jpg", None),
        ("/photos/x.jpg", None),
    ],
)
def test_host_of(uri: str, host: str | None) -> None:
    assert host_of(uri) == host
