"""Which image is fetched next, and by how many threads a web server is asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from beam_job.inputs.filters import Filters
from beam_job.loading.host_queue import HostQueue
from beam_job.loading.load_config import LoadConfig
from beam_job.loading.thread_loader import ThreadLoader
from beam_job.records import DecodedImage, Failure, ImageInput
from beam_job.storage import Allowed, Hosts
from tests.fault_server import FaultServer, Handler, ok, serve, status
from tests.images import encode, halves

JPEG = encode(halves("red", "blue"), "JPEG")
WEB = Allowed(schemes=("http",), private_addresses=True)


@pytest.fixture
def queue() -> HostQueue[str]:
    return HostQueue(16, 60.0, Hosts())


def put(queue: HostQueue[str], *uris: str) -> None:
    for uri in uris:
        queue.put(uri, uri)


def take(queue: HostQueue[str], count: int) -> list[str]:
    taken = []
    for _ in range(count):
        given = queue.get()
        assert given
        taken.append(given[1])
    return taken


def test_servers_take_turns_and_have_four_requests_each(queue: HostQueue[str]) -> None:
    slow = [f"http://slow/{number}" for number in range(100)]
    put(queue, *slow, "http://quick/0", "http://quick/1", "/local")
    assert sorted(take(queue, 7)) == sorted([*slow[:4], "http://quick/0", "http://quick/1", "/local"])
    queue.done("slow")
    assert take(queue, 1) == [slow[4]]


def test_a_server_gets_half_of_few_threads() -> None:
    queue: HostQueue[str] = HostQueue(4, 60.0, Hosts())
    put(queue, *(f"http://slow/{number}" for number in range(9)), "http://quick/0")
    assert sorted(take(queue, 3)) == ["http://quick/0", "http://slow/0", "http://slow/1"]


def test_local_files_come_in_their_order_and_without_limit(queue: HostQueue[str]) -> None:
    files = [f"/photos/{number}" for number in range(50)]
    put(queue, *files)
    assert take(queue, 50) == files


@pytest.mark.parametrize(("pause", "first"), [(30.0, "http://quick/0"), (90.0, "http://busy/0")])
def test_a_pause_longer_than_an_image_has_time_is_not_waited_for(pause: float, first: str) -> None:
    hosts = Hosts()
    hosts.refused("busy", pause)
    queue: HostQueue[str] = HostQueue(16, 60.0, hosts)
    put(queue, "http://busy/0", "http://quick/0")
    assert take(queue, 1) == [first]


def test_a_closed_queue_ends_when_it_is_empty(queue: HostQueue[str]) -> None:
    put(queue, "/x")
    queue.close()
    assert take(queue, 1) == ["/x"]
    assert queue.get() is None


@pytest.fixture
def servers() -> Iterator[tuple[FaultServer, FaultServer]]:
    with serve() as slow, serve() as quick:
        yield slow, quick


def test_a_server_that_does_not_answer_hinders_no_other(servers: tuple[FaultServer, FaultServer]) -> None:
    """Its 40 images come first and would take all eight threads; those of the other server are loaded meanwhile."""
    slow, quick = servers
    answer, asked, most = threading.Event(), threading.Semaphore(0), []
    lock, now = threading.Lock(), 0

    def wait(handler: Handler) -> None:
        nonlocal now
        with lock:
            now += 1
            most.append(now)
        asked.release()
        answer.wait(60)
        with lock:
            now -= 1
        ok(JPEG)(handler)

    slow.otherwise, quick.otherwise = wait, ok(JPEG)
    loader = ThreadLoader(LoadConfig(8, 8, 1, 10**6, 2**28, 60.0, WEB, Filters()))
    loader.put("slow", [ImageInput(f"{slow.address}/{number}.jpg") for number in range(40)])
    assert asked.acquire(timeout=60)
    loader.put("quick", [ImageInput(f"{quick.address}/{number}.jpg") for number in range(40)])
    done: list[str] = []
    while len(done) < 80:
        outcomes = [event for event in loader.get(timeout=60) if event.outcome is not None]
        assert all(isinstance(event.outcome, DecodedImage) for event in outcomes), outcomes
        done += [event.key for event in outcomes]
        if len(done) == 40:
            assert done == ["quick"] * 40
            answer.set()
    assert max(most) <= 4
    loader.stop()


def test_images_of_a_server_that_asks_for_an_hour_fail_at_once(servers: tuple[FaultServer, FaultServer]) -> None:
    busy, _ = servers
    busy.otherwise = status(429, {"Retry-After": "3600"})
    loader = ThreadLoader(LoadConfig(8, 2, 1, 10**6, 2**28, 20.0, WEB, Filters()))
    loader.put("busy", [ImageInput(f"{busy.address}/{number}.jpg") for number in range(30)])
    failures = [loader.get(timeout=60)[0].outcome for _ in range(30)]
    assert {failure.retry_when for failure in failures if isinstance(failure, Failure)} == {"later"}
    assert [failure.error_type for failure in failures[2:] if isinstance(failure, Failure)] == ["HostBusy"] * 28
    assert len(busy.asked) <= 2
    loader.stop()
