"""Reads from Google Cloud Storage: pinned generations, checksums, gzip, names; real emulator and fault server."""

from __future__ import annotations

import functools
import gzip
from collections.abc import Iterator

import pytest

from beam_job.storage import OPTIONS, Access, GoogleCloudStorage, StorageError, storage_for, use_access
from beam_job.storage.checksum import crc32c_in, crc32c_of
from beam_job.storage.retry import retrying
from tests.fault_server import FaultServer, ok, serve, status, stored

SOON = functools.partial(retrying, random=lambda: 0.02)
# A wait that outlasts every deadline: the first error is the last.
ONCE = functools.partial(retrying, random=lambda: 1e9)
DATA = b"photograph"


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with serve() as faults:
        yield faults


@pytest.fixture
def storage(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[GoogleCloudStorage]:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.address)
    made = GoogleCloudStorage(SOON)
    yield made
    made.close()


def test_crc32c() -> None:
    assert crc32c_of(b"123456789") == "4waSgw=="  # 0xE3069283, the check value of CRC-32C in the RevEng catalogue
    assert crc32c_in("crc32c=4waSgw==,md5=JfnnlDI7RTiF9RgfG2JNCw==") == "4waSgw=="
    assert crc32c_in("md5=JfnnlDI7RTiF9RgfG2JNCw==, crc32c=4waSgw==") == "4waSgw=="
    assert crc32c_in("md5=x") is crc32c_in(None) is None


def test_the_generation_is_pinned_and_told(server: FaultServer, storage: GoogleCloudStorage) -> None:
    server.script("a b/ä?.jpg", ok(DATA, stored(DATA, "7")))
    server.script("ä?.jpg", ok(DATA, stored(DATA, "7")))  # the server sees a name's last part
    assert storage.read("gs://bucket/a b/ä?.jpg") == (DATA, "7")
    assert storage.read("gs://bucket/a b/ä?.jpg", "7") == (DATA, "7")
    paths = [path for _, path, _ in server.asked]
    media = "/download/storage/v1/b/bucket/o/a%20b%2F%C3%A4%3F.jpg?alt=media"
    assert paths == [media, media + "&generation=7"]


def test_a_generation_that_was_replaced_is_gone_for_good(server: FaultServer, storage: GoogleCloudStorage) -> None:
    server.script("x.jpg", status(404, text=b"No such object: bucket/x.jpg"))
    with pytest.raises(StorageError) as caught:
        storage.read("gs://bucket/x.jpg", "7")
    expected = "gs://bucket/x.jpg: 404 Not Found: No such object: bucket/x.jpg: generation 7 was replaced or deleted"
    assert str(caught.value) == expected
    assert not caught.value.transient


def test_another_generation_than_asked_for_is_refused(server: FaultServer, storage: GoogleCloudStorage) -> None:
    server.script("x.jpg", ok(DATA, stored(DATA, "8")), ok(DATA, stored(DATA, "7")))
    assert storage.read("gs://bucket/x.jpg", "7") == (DATA, "7")


@pytest.mark.parametrize(
    ("size", "crc32c", "cause"),
    [(11, None, "SizeMismatch"), (None, "4waSgw==", "ChecksumMismatch"), (10, crc32c_of(DATA), None)],
    ids=["size", "crc32c", "both-right"],
)
@pytest.mark.parametrize("told", [True, False], ids=["x-goog-hash", "no-x-goog-hash"])
def test_the_listing_is_checked(
    server: FaultServer,
    storage: GoogleCloudStorage,
    size: int | None,
    crc32c: str | None,
    cause: str | None,
    told: bool,
) -> None:
    headers = stored(DATA)
    if not told:
        del headers["x-goog-hash"]
    server.script("x.jpg", ok(DATA, headers))
    if cause is None:
        assert storage.read("gs://bucket/x.jpg", "1", 5.0, size, crc32c) == (DATA, "1")
        return
    storage._retrying = ONCE
    with pytest.raises(StorageError) as caught:
        storage.read("gs://bucket/x.jpg", "1", 30.0, size, crc32c)
    assert (caught.value.transient, caught.value.cause) == (True, cause)


def test_gzip_is_asked_for_checked_as_stored_and_undone(server: FaultServer, storage: GoogleCloudStorage) -> None:
    packed = gzip.compress(DATA, mtime=0)
    server.script("x.jpg", ok(packed, {**stored(packed), "Content-Encoding": "gzip"}))
    assert storage.read("gs://bucket/x.jpg", "1", 5.0, len(packed), crc32c_of(packed)) == (DATA, "1")
    assert server.asked[0][2]["accept-encoding"] == "gzip"


def test_the_emulator_tells_the_generation_by_metadata(bucket) -> None:
    uri = f"gs://{bucket.name}/folder/x.jpg"
    storage = storage_for(uri)
    storage.write(uri, DATA)
    listed = storage.stat(uri)
    assert storage.read(uri) == (DATA, listed.version)
    assert storage.read(uri, listed.version, 5.0, listed.size, listed.crc32c) == (DATA, listed.version)


def test_an_object_overwritten_since_the_listing_is_not_taken_for_the_listed_one(bucket) -> None:
    """The emulator ignores `generation` in reads, as a proxy might: the listing's checksum still tells."""
    uri = f"gs://{bucket.name}/x.jpg"
    storage = storage_for(uri)
    storage.write(uri, DATA)
    listed = storage.stat(uri)
    storage.write(uri, DATA[::-1])
    storage._retrying = ONCE
    with pytest.raises(StorageError, match="crc32c"):
        storage.read(uri, listed.version, 30.0, listed.size, listed.crc32c)


@pytest.mark.parametrize("told", [True, False], ids=["by-header", "by-metadata"])
def test_an_object_that_was_decompressed_on_its_way_is_read(
    server: FaultServer, storage: GoogleCloudStorage, told: bool
) -> None:
    """Its listed size and checksum are those of the compressed bytes; to try again would change nothing."""
    packed = gzip.compress(DATA, mtime=0)
    headers = {"x-goog-hash": stored(packed)["x-goog-hash"], "x-goog-generation": "1", "Content-Length": "10"}
    headers |= {"x-goog-stored-content-encoding": "gzip"} if told else {}
    metadata = b'{"name": "x.jpg", "bucket": "bucket", "generation": "1", "contentEncoding": "gzip"}'
    as_json = {"Content-Type": "application/json", "Content-Length": str(len(metadata))}
    server.script("x.jpg", ok(DATA, headers), ok(metadata, as_json))
    assert storage.read("gs://bucket/x.jpg", "1", 5.0, len(packed), crc32c_of(packed)) == (DATA, "1")


@pytest.mark.parametrize("encoding", ["aws-chunked", "UTF-8", "gzip"])
def test_encodings_that_are_none(server: FaultServer, storage: GoogleCloudStorage, encoding: str) -> None:
    server.script("x.jpg", ok(DATA, {**stored(DATA), "Content-Encoding": encoding}))
    assert storage.read("gs://bucket/x.jpg", "1", 5.0, len(DATA), crc32c_of(DATA)) == (DATA, "1")


def test_requester_pays_names_the_option(server: FaultServer, storage: GoogleCloudStorage) -> None:
    text = b"Bucket is a requester pays bucket but no user project provided."
    server.script("x.jpg", status(400, text=text))
    with pytest.raises(StorageError, match="--billing_project=PROJECT") as caught:
        storage.read("gs://bucket/x.jpg")
    assert (caught.value.transient, caught.value.retry_when) == (False, OPTIONS)
    server.script("o", status(400, text=text))
    with pytest.raises(StorageError, match="--billing_project=PROJECT"):
        list(storage.list("gs://bucket/photos/"))


def test_the_project_that_pays_is_named_in_each_request(server: FaultServer, storage: GoogleCloudStorage) -> None:
    listing = b'{"items": [{"name": "x.jpg", "generation": "1", "size": "10"}]}'
    server.script("o", ok(listing, {"Content-Type": "application/json", "Content-Length": str(len(listing))}))
    server.script("x.jpg", ok(DATA))
    use_access(Access(billing_project="museum-1"))
    try:
        [found] = storage.list("gs://bucket/")
        assert storage.read(found.uri, found.version) == (DATA, "1")
    finally:
        use_access(Access())
    asked = [path for _, path, _ in server.asked if "/o" in path]  # the client looks up the bucket, too, for its traces
    assert [path for path in asked if "userProject=museum-1" not in path] == []


ODD = ["a#b.jpg", "100%.jpg", "100%25.jpg", "what?.jpg", "[1].jpg", "a  b.jpg", "{x}.jpg", "a+b&c.jpg"]


def test_odd_names_are_listed_and_read_as_they_are(gcs_server) -> None:
    for name in ODD:
        gcs_server.put(f"odd/{name}", name.encode())
    for placeholder in ("odd/", "odd/folder/", "odd/folder_$folder$"):
        gcs_server.put(placeholder, b"")
    storage = storage_for("gs://bucket/")
    found = list(storage.list("gs://bucket/odd/"))
    assert sorted(stored.uri for stored in found) == sorted(f"gs://bucket/odd/{name}" for name in ODD)
    for stored_object in found:
        data, _ = storage.read(stored_object.uri, stored_object.version)
        assert data.decode() == stored_object.uri.rpartition("/")[2]
        assert [again.uri for again in storage.list(stored_object.uri)] == [stored_object.uri]
