"""Buckets listed by several threads: every name once and in order, bounded memory, errors in their place."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from beam_job.inputs.listing import list_images
from beam_job.storage import GoogleCloudStorage, StorageError, storage_for
from beam_job.storage.gcs_listing import PAGES_HELD, THREADS, guessed_points
from tests.paging_server import PagingServer, serve_pages

# A page each, so that what is asked for can be counted against what is consumed.
FOLDERS = [f"f{folder:03}/{number}.jpg" for folder in range(300) for number in range(10)]


@pytest.fixture
def listing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[PagingServer, GoogleCloudStorage]]]:
    """Makes a bucket of some names, and the storage that lists it."""
    with contextlib.ExitStack() as stack:

        def make(names: Sequence[str], page_size: int) -> tuple[PagingServer, GoogleCloudStorage]:
            server = stack.enter_context(serve_pages(names, page_size))
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.address)
            storage = GoogleCloudStorage()
            stack.callback(storage.close)
            return server, storage

        yield make
        wait_for_the_threads()  # before the server goes, which they would ask again and again


def wait_for_the_threads() -> None:
    """Returns when no thread lists any more; fails where one goes on."""
    for thread in threading.enumerate():
        if thread.name == "gcs-listing":
            thread.join(20)
            assert not thread.is_alive()


def names_of(storage: GoogleCloudStorage, uri: str = "gs://bucket/") -> list[str]:
    return [found.uri.removeprefix("gs://bucket/") for found in storage.list(uri)]


def test_a_hundred_thousand_objects_in_the_order_of_their_names(listing) -> None:
    names = [f"{year}/{day:03}/{number:04}.jpg" for year in range(5) for day in range(40) for number in range(500)]
    server, storage = listing(names, 1000)
    assert names_of(storage) == names
    assert len(names) == 100_000
    fields = {query["fields"] for query in server.asked}
    assert fields == {"items(name,generation,size,crc32c),nextPageToken"}
    assert {query["fields"] for query in server.asked_for_folders} == {"prefixes,nextPageToken"}


LAYOUTS = {
    "one folder, numbered": [f"photos/img_{number:06}.jpg" for number in range(20_000)],
    "one folder, hashes": [hashlib.md5(b"%d" % number).hexdigest() + ".jpg" for number in range(20_000)],
    "many small folders": [f"photos/user{user:05}/{number}.jpg" for user in range(4_000) for number in range(5)],
    "few large folders": [f"{split}/{number}.jpg" for split in ("test", "train", "val") for number in range(7_000)],
    "dates": [
        f"{y}/{m:02}/{d:02}/{n}.jpg"
        for y in range(2024, 2027)
        for m in range(1, 13)
        for d in range(1, 29)
        for n in "ab"
    ],
    "files before, between and after folders": [
        *(f"{number:04}.jpg" for number in range(3_000)),
        *(f"a/{number:04}.jpg" for number in range(300)),
        *(f"b/c/d/{number:04}.jpg" for number in range(3_000)),
        *(f"b-{number:04}.jpg" for number in range(300)),
        *(f"c{number:04}/x.jpg" for number in range(3_000)),
        *(f"c{number:04}" for number in range(3_000)),
        *(f"z{number:04}" for number in range(3_000)),
    ],
    "no letters": [f"{chr(0x4E00 + number)}//{chr(0x1F600 + number % 50)} #%{number}" for number in range(3_000)],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_name_once_and_in_order_whatever_the_folders(layout: str, listing) -> None:
    names = sorted(LAYOUTS[layout])
    server, storage = listing(names, 100)
    assert names_of(storage) == names
    # Not folder by folder, nor guess by guess: of the order of what one thread would ask.
    assert len(server.asked) + len(server.asked_for_folders) <= 2.5 * len(names) / 100 + 60


def test_where_names_without_folders_are_cut() -> None:
    numbered = [f"p/img_{number:05}.jpg" for number in range(6990, 7990)]
    assert guessed_points("p/img_00000.jpg", numbered[-1], numbered, 2) == [
        *("p/img_08", "p/img_09"),
        *(f"p/img_{digit}" for digit in range(1, 10)),
    ]
    hashes = [f"{number:05x}.jpg" for number in range(0x01E00, 0x02200)]
    guessed = guessed_points("00000.jpg", hashes[-1], hashes, 0)
    assert guessed == [*(f"0{digit}" for digit in "3456789abcdef"), *"123456789abcdef"]
    assert guessed_points("a", "a", [], 0) == []


@pytest.mark.parametrize("layout", ["one folder, numbered", "few large folders", "many small folders", "dates"])
def test_several_requests_are_under_way_at_the_same_time(layout: str, listing) -> None:
    server, storage = listing(LAYOUTS[layout], 40)
    server.wanted_at_once = 4
    server.hold = lambda query: server.most_at_once < server.wanted_at_once and len(server.asked) > 20
    assert names_of(storage) == sorted(LAYOUTS[layout])
    assert server.most_at_once >= server.wanted_at_once


def test_a_slow_consumer_is_waited_for(listing) -> None:
    server, storage = listing(FOLDERS, 10)
    found = storage.list("gs://bucket/")
    for step, consumed in itertools.pairwise((0, 1, 50, 150)):
        assert len(list(itertools.islice(found, 10 * (consumed - step)))) == 10 * (consumed - step)
        assert server.wait_for_pages(consumed + THREADS) >= consumed + THREADS
        server.wait_for_pages(1_000_000, timeout=0.3)  # were there no bound, it would go on
        # Each folder is a page; what is asked for with a token ran beyond its range and was dropped.
        assert sum("pageToken" not in query for query in server.asked) <= consumed + PAGES_HELD
    assert len(list(found)) == 3000 - 1500


@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_an_abandoned_listing_stops_asking(how: str, listing) -> None:
    server, storage = listing(FOLDERS, 10)
    found = storage.list("gs://bucket/")
    assert next(found).uri == "gs://bucket/f000/0.jpg"
    server.wait_for_pages(20)
    if how == "closed":
        found.close()
    del found
    wait_for_the_threads()
    assert len(server.asked) < 200


def test_an_error_comes_in_its_place(listing) -> None:
    """So that `--limit` does not fail for what lies beyond it, and nothing before is lost."""
    server, storage = listing(FOLDERS, 10)
    server.refuse = lambda query: 403 if query.get("startOffset", "") >= "f100/" else None
    found: list[str] = []
    with pytest.raises(StorageError, match=r"^gs://bucket/: 403 .*refused; grant this right") as caught:
        found.extend(stored.uri for stored in storage.list("gs://bucket/"))
    assert not caught.value.transient
    limited = [stored.uri for stored in itertools.islice(storage.list("gs://bucket/"), 1000)]
    assert found == limited == [f"gs://bucket/{name}" for name in FOLDERS[:1000]]


def test_an_error_on_a_later_page_of_a_range(listing) -> None:
    server, storage = listing([f"{number:03}.jpg" for number in range(100)], 10)
    server.refuse = lambda query: 403 if query.get("pageToken") == "30" else None
    found = storage.list("gs://bucket/")
    assert [next(found).uri for _ in range(30)] == [f"gs://bucket/{number:03}.jpg" for number in range(30)]
    with pytest.raises(StorageError, match="403"):
        next(found)


def test_names_out_of_order_are_an_error(listing) -> None:
    server, storage = listing(FOLDERS, 10)
    server.names = FOLDERS[:15] + FOLDERS[10:]
    with pytest.raises(StorageError, match="not listed in their order"):
        names_of(storage)


def test_a_glob_and_a_prefix_in_pages(listing) -> None:
    names = [
        f"a/{folder:03}/{number}.{kind}" for folder in range(200) for number in range(5) for kind in ("jpg", "txt")
    ]
    server, storage = listing([*names, *FOLDERS], 10)
    assert names_of(storage, "gs://bucket/a/**.jpg") == [name for name in names if name.endswith("jpg")]
    assert names_of(storage, "gs://bucket/a/1*/0.jpg") == [f"a/{folder}/0.jpg" for folder in range(100, 200)]
    assert names_of(storage, "gs://bucket/a/1*/none") == []
    assert all(query["prefix"].startswith("a/") for query in server.asked + server.asked_for_folders)
    assert names_of(storage, "gs://bucket/a/150/") == names[1500:1510]
    assert names_of(storage, "gs://bucket/f2") == []  # a folder's name ends at a slash
    assert names_of(storage, "gs://bucket/f299") == FOLDERS[-10:]


def test_a_listing_of_one_page_is_one_request_and_no_thread(listing) -> None:
    server, storage = listing(FOLDERS, 5000)
    found = storage.list("gs://bucket/")
    next(found)
    assert not [thread for thread in threading.enumerate() if thread.name == "gcs-listing"]
    assert (len(server.asked), len(server.asked_for_folders)) == (1, 0)


def test_images_of_a_large_bucket(listing, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [
        f"{folder:02}/{number:04}.{kind}" for folder in range(30) for number in range(100) for kind in ("jpg", "txt")
    ]
    _, storage = listing(names, 100)
    monkeypatch.setattr("beam_job.inputs.listing.storage_for", lambda uri: storage)
    [batch] = list_images(["gs://bucket/"])
    assert batch["uri"].to_pylist() == [f"gs://bucket/{name}" for name in sorted(names) if name.endswith("jpg")]
    assert batch["object_version"][0].as_py() == "1700000000000001"
    assert (batch["size"][0].as_py(), batch["crc32c"][0].as_py()) == (100_000, "4waSgw==")


ODD = (
    "/a.jpg",
    "/a/b.jpg",
    "//a.jpg",
    "a #1.jpg",
    "a%20b.jpg",
    "a//b.jpg",
    "a/b?c=d&.jpg",
    "ä/ö.jpg",
    "日本/写真.jpg",
)


def test_odd_names_of_an_emulated_bucket(bucket) -> None:
    for name in (*ODD, "//", "folder/", "folder/x.jpg", "folder", "folder-1.jpg"):
        bucket.blob(name).upload_from_string(b"x")
    uri = f"gs://{bucket.name}"
    storage = storage_for(uri)

    def found(below: str) -> list[str]:
        return [stored.uri.removeprefix(f"{uri}/") for stored in storage.list(f"{uri}/{below}")]

    expected = sorted([*ODD, "folder/x.jpg", "folder", "folder-1.jpg"])  # and not the placeholders of folders
    assert found("") == expected
    assert found("**") == expected
    assert found("a*.jpg") == ["a #1.jpg", "a%20b.jpg"]
    assert found("/") == ["//a.jpg", "/a.jpg", "/a/b.jpg"]
    assert found("a") == found("a/") == ["a//b.jpg", "a/b?c=d&.jpg"]
    assert found("ä/ö.jpg") == ["ä/ö.jpg"]
    assert found("folder") == ["folder"]  # the object of that name, not what is below
    assert found("folder/") == ["folder/x.jpg"]
    [stored] = storage.list(f"{uri}/日本/写真.jpg")
    assert storage.read(stored.uri, stored.version, size=stored.size, crc32c=stored.crc32c)[0] == b"x"


def test_a_missing_bucket_is_an_error(gcs_emulator: str) -> None:
    storage = GoogleCloudStorage()
    with contextlib.closing(storage), pytest.raises(StorageError, match="gs://no-such-bucket/x: 404") as caught:
        list(storage.list("gs://no-such-bucket/x"))
    assert caught.value.cause == "NotFound"
