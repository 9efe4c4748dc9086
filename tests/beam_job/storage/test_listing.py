"""Buckets are listed page by page: every name once and in order, errors in their place."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence

import pytest

from beam_job.inputs.listing import list_images
from beam_job.storage import GoogleCloudStorage, StorageError, storage_for
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


def names_of(storage: GoogleCloudStorage, uri: str = "gs://bucket/") -> list[str]:
    return [found.uri.removeprefix("gs://bucket/") for found in storage.list(uri)]


def test_a_hundred_thousand_objects_in_the_order_of_their_names(listing) -> None:
    names = [f"{year}/{day:03}/{number:04}.jpg" for year in range(5) for day in range(40) for number in range(500)]
    server, storage = listing(names, 1000)
    assert names_of(storage) == names
    assert len(names) == 100_000
    fields = {query["fields"] for query in server.asked}
    assert fields == {"items(name,generation,size,crc32c),nextPageToken"}


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
    assert len(server.asked) == -(-len(names) // 100)


def test_pages_are_asked_for_as_they_are_consumed(listing) -> None:
    server, storage = listing(FOLDERS, 10)
    found = storage.list("gs://bucket/")
    assert next(found).uri == "gs://bucket/f000/0.jpg"
    assert len(list(itertools.islice(found, 99))) == 99
    assert len(server.asked) == 10


def test_an_error_comes_in_its_place(listing) -> None:
    """So that `--limit` does not fail for what lies beyond it, and nothing before is lost."""
    server, storage = listing(FOLDERS, 10)
    server.refuse = lambda query: 403 if query.get("pageToken") == "1000" else None
    found: list[str] = []
    with pytest.raises(StorageError, match=r"^gs://bucket/: 403 .*refused; grant this permission") as caught:
        found.extend(stored.uri for stored in storage.list("gs://bucket/"))
    assert not caught.value.transient
    limited = [stored.uri for stored in itertools.islice(storage.list("gs://bucket/"), 1000)]
    assert found == limited == [f"gs://bucket/{name}" for name in FOLDERS[:1000]]


def test_an_error_on_a_later_page(listing) -> None:
    server, storage = listing([f"{number:03}.jpg" for number in range(100)], 10)
    server.refuse = lambda query: 403 if query.get("pageToken") == "30" else None
    found = storage.list("gs://bucket/")
    assert [next(found).uri for _ in range(30)] == [f"gs://bucket/{number:03}.jpg" for number in range(30)]
    with pytest.raises(StorageError, match="403"):
        next(found)


def test_a_glob_and_a_prefix_in_pages(listing) -> None:
    names = [
        f"a/{folder:03}/{number}.{kind}" for folder in range(200) for number in range(5) for kind in ("jpg", "txt")
    ]
    server, storage = listing([*names, *FOLDERS], 10)
    assert names_of(storage, "gs://bucket/a/**.jpg") == [name for name in names if name.endswith("jpg")]
    assert names_of(storage, "gs://bucket/a/1*/0.jpg") == [f"a/{folder}/0.jpg" for folder in range(100, 200)]
    assert names_of(storage, "gs://bucket/a/1*/none") == []
    assert all(query["prefix"].startswith("a/") for query in server.asked)
    assert names_of(storage, "gs://bucket/a/150/") == names[1500:1510]
    assert names_of(storage, "gs://bucket/f2") == []  # a folder's name ends at a slash
    assert names_of(storage, "gs://bucket/f299") == FOLDERS[-10:]


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
