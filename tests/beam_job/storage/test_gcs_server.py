"""The test server for Google Cloud Storage behaves as Google's client expects, preconditions and faults included."""

from __future__ import annotations

import pytest
from google.api_core.exceptions import PreconditionFailed
from google.cloud import storage as gcs

from tests.gcs_server import GcsServer


@pytest.fixture
def made(gcs_server: GcsServer):
    client = gcs.Client()
    yield client.bucket("bucket")
    client.close()


@pytest.mark.parametrize("size", [0, 10, 9 << 20], ids=["empty", "multipart", "resumable"])
def test_only_the_first_exclusive_upload_succeeds(made, gcs_server: GcsServer, size: int) -> None:
    made.blob("a/b c").upload_from_string(b"\r\n" * (size // 2), if_generation_match=0, checksum="crc32c")
    with pytest.raises(PreconditionFailed):
        made.blob("a/b c").upload_from_string(b"other", if_generation_match=0)
    assert made.blob("a/b c").download_as_bytes() == gcs_server.data("a/b c") == b"\r\n" * (size // 2)


def test_an_upload_whose_answer_is_lost_took_effect(made, gcs_server: GcsServer) -> None:
    gcs_server.fail("insert", "a", status=None, applied=True, times=1)
    with pytest.raises(OSError, match="reset"):
        made.blob("a").upload_from_string(b"x", retry=None)
    assert gcs_server.data("a") == b"x"


def test_listing_in_pages_with_prefix_delimiter_and_glob(made, gcs_server: GcsServer) -> None:
    for name in ("p/a.jpg", "p/sub/b.jpg", "p/sub/c.jpg", "p/z.png", "q.jpg"):
        gcs_server.put(name, b"")
    gcs_server.page_size = 1
    listing = made.list_blobs(prefix="p/", delimiter="/")
    assert [blob.name for blob in listing] == ["p/a.jpg", "p/z.png"]
    assert listing.prefixes == {"p/sub/"}
    assert [blob.name for blob in made.list_blobs(match_glob="p/**.jpg")] == ["p/a.jpg", "p/sub/b.jpg", "p/sub/c.jpg"]
    assert [blob.name for blob in made.list_blobs(start_offset="p/sub/c", end_offset="q")] == ["p/sub/c.jpg", "p/z.png"]


def test_generations_of_reads_and_deletes(made, gcs_server: GcsServer) -> None:
    old = gcs_server.put("a", b"old").generation
    new = gcs_server.put("a", b"new").generation
    assert made.blob("a", generation=new).download_as_bytes() == b"new"
    assert not made.blob("a", generation=old).exists()
    with pytest.raises(PreconditionFailed):
        made.blob("a").delete(if_generation_match=old)
    made.blob("a").delete(if_generation_match=new)
    assert gcs_server.names() == []
