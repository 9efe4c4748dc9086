"""Files of web servers: versions, redirects, sizes, encodings, and URLs that hold secrets."""

from __future__ import annotations

import contextlib
import functools
import gzip
import socket
from collections.abc import Iterator

import pytest

from beam_job.storage import (
    LATER,
    OPTIONS,
    Access,
    HttpStorage,
    StorageError,
    StoredObject,
    storage_for,
    use_access,
)
from beam_job.storage.checksum import crc32c_of
from beam_job.storage.redirects import forbids_ai
from beam_job.storage.retry import retrying
from tests.fault_server import FaultServer, Handler, Step, ok, serve, status, stored

SOON = functools.partial(retrying, random=lambda: 0.02)
DATA = b"photograph"
LENGTH = {"Content-Length": "10"}


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with serve() as faults:
        yield faults


@pytest.fixture
def storage() -> Iterator[HttpStorage]:
    made = HttpStorage(SOON)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("headers", "version"),
    [
        pytest.param({**LENGTH, "ETag": '"a1"', "Last-Modified": "Mon, 01 Jan 2024"}, '"a1"', id="etag"),
        pytest.param({**LENGTH, "Last-Modified": "Mon, 01 Jan 2024"}, "Mon, 01 Jan 2024", id="last-modified"),
        pytest.param(LENGTH, crc32c_of(DATA), id="crc32c"),
        pytest.param({}, crc32c_of(DATA), id="no-length"),
    ],
)
def test_version(server: FaultServer, storage: HttpStorage, headers: dict[str, str], version: str) -> None:
    server.script("x.jpg", ok(DATA, headers))
    uri = f"{server.address}/x.jpg"
    assert storage.read(uri) == (DATA, version)
    assert storage.stat(uri) == StoredObject(uri, version, 10)
    assert list(storage.list(uri)) == [StoredObject(uri, version, 10)]
    assert storage.exists(uri)
    assert not storage.is_folder(uri)
    with storage.open(uri) as file:
        file.seek(5)
        assert file.read() == b"graph"


@pytest.mark.parametrize("code", [400, 403, 405, 501])
def test_servers_that_answer_no_head(server: FaultServer, storage: HttpStorage, code: int) -> None:
    server.script("x.jpg", *[status(code)] * 1, ok(DATA))
    if code == 501:
        server.script("x.jpg", ok(DATA))
    assert storage.exists(f"{server.address}/x.jpg")


def test_missing(server: FaultServer, storage: HttpStorage) -> None:
    uri = f"{server.address}/missing.jpg"
    assert not storage.exists(uri)
    assert list(storage.list(uri)) == []
    with pytest.raises(StorageError, match="404"):
        storage.stat(uri)


def test_what_was_listed_is_not_insisted_on(server: FaultServer, storage: HttpStorage) -> None:
    """Servers keep no versions: as with a local file, what is there comes with its own version."""
    server.script("x.jpg", ok(DATA, {**LENGTH, "ETag": "new"}))
    assert storage.read(f"{server.address}/x.jpg", "old", 5.0, 99, "AAAAAA==") == (DATA, "new")


def test_redirects_are_followed(server: FaultServer, storage: HttpStorage) -> None:
    for step in range(20):
        server.script(str(step), status(302, {"Location": f"/{step + 1}"}))
    server.script("20", ok(DATA))
    assert storage.read(f"{server.address}/0")[0] == DATA


def test_the_21st_redirect_is_one_too_many(server: FaultServer, storage: HttpStorage) -> None:
    server.script("loop", status(301, {"Location": "/loop"}))
    with pytest.raises(StorageError, match="more than 20 redirects") as caught:
        storage.read(f"{server.address}/loop")
    assert not caught.value.transient
    assert len(server.asked) == 21


@pytest.mark.parametrize("scheme", ["file:///etc/hostname", "ftp://127.0.0.1/x"])
def test_redirects_lead_to_the_web_alone(server: FaultServer, storage: HttpStorage, scheme: str) -> None:
    server.script("x.jpg", status(302, {"Location": scheme}))
    with pytest.raises(StorageError, match="not a URL that can be fetched") as caught:
        storage.read(f"{server.address}/x.jpg")
    assert not caught.value.transient


@pytest.mark.parametrize("headers", [LENGTH, {}], ids=["announced", "not-announced"])
def test_too_large(server: FaultServer, storage: HttpStorage, headers: dict[str, str]) -> None:
    server.script("x.jpg", ok(DATA, headers))
    assert storage.read(f"{server.address}/x.jpg", max_bytes=10)[0] == DATA
    with pytest.raises(StorageError, match="10 bytes are more than 9") as caught:
        storage.read(f"{server.address}/x.jpg", max_bytes=9)
    assert (caught.value.transient, caught.value.cause, caught.value.retry_when) == (False, "TooLarge", OPTIONS)


@pytest.mark.parametrize(
    ("body", "encoding", "expected"),
    [
        pytest.param(gzip.compress(DATA), "gzip", None, id="gzip"),
        pytest.param(DATA, "identity", None, id="identity"),
        pytest.param(DATA, "br", "Content-Encoding: br", id="another"),
        pytest.param(gzip.compress(DATA)[:-9], "gzip", "damaged", id="damaged"),
        pytest.param(gzip.compress(bytes(2000)), "gzip", "bytes are more than 1,000", id="bomb"),
        pytest.param(gzip.compress(DATA[:4]) + gzip.compress(DATA[4:]), "gzip", None, id="two-members"),
    ],
)
def test_encodings_that_nobody_asked_for(
    server: FaultServer,
    storage: HttpStorage,
    body: bytes,
    encoding: str,
    expected: str | None,
) -> None:
    server.script("x.jpg", ok(body, {**stored(body), "Content-Encoding": encoding}))
    if expected is None:
        assert storage.read(f"{server.address}/x.jpg", max_bytes=1000)[0] == DATA
    else:
        with pytest.raises(StorageError, match=expected) as caught:
            storage.read(f"{server.address}/x.jpg", max_bytes=1000)
        assert not caught.value.transient
    assert server.asked[0][2]["accept-encoding"] == "identity"


@pytest.mark.parametrize("fault", ["status", "refused", "write"])
def test_messages_hide_what_signed_urls_hold(server: FaultServer, storage: HttpStorage, fault: str) -> None:
    address = "http://127.0.0.1:9" if fault == "refused" else server.address
    uri = address.replace("//", "//user:password@") + "/x.jpg?X-Signature=secret"
    with pytest.raises(StorageError) as caught:
        storage.write(uri, b"") if fault == "write" else storage.read(uri, timeout=0.1)
    chain: list[BaseException | None] = [caught.value]
    while chain[-1] is not None:
        assert "secret" not in str(chain[-1])
        assert "password" not in str(chain[-1])
        chain.append(chain[-1].__cause__)
    assert str(caught.value).startswith(f"{address}/x.jpg: ")


def test_hosts_that_do_not_exist_are_given_up_at_once(storage: HttpStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(StorageError, match="Name or service not known") as caught:
        storage.read("http://gone.example/x.jpg")
    assert (caught.value.transient, caught.value.cause) == (False, "gaierror")


@pytest.mark.parametrize("uri", ["http://", "http:///x.jpg", "http://[::1/x.jpg", "http://a..b/x.jpg", "http://h:x/"])
def test_what_is_no_url(storage: HttpStorage, uri: str) -> None:
    with pytest.raises(StorageError) as caught:
        storage.read(uri)
    assert not caught.value.transient


def test_read_only(storage: HttpStorage) -> None:
    assert isinstance(storage_for("HTTPS://host/x"), HttpStorage)
    with pytest.raises(StorageError, match="https:// is read-only"):
        storage.create("https://host/x", b"")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("photo-Å-…-写真.jpg", id="utf-8"),
        pytest.param("a b.jpg", id="blank"),
        pytest.param("100%.jpg", id="percent"),
    ],
)
def test_a_location_that_is_not_percent_encoded(server: FaultServer, storage: HttpStorage, name: str) -> None:
    server.script("x.jpg", raw_redirect(f"/{name}".encode()))
    server.script(name, ok(DATA))
    assert storage.read(f"{server.address}/x.jpg")[0] == DATA


def test_a_location_in_latin_1(server: FaultServer, storage: HttpStorage) -> None:
    server.script("x.jpg", raw_redirect("/münchen.jpg".encode("latin-1")))
    server.otherwise = ok(DATA)
    assert storage.read(f"{server.address}/x.jpg")[0] == DATA
    assert server.asked[-1][1] == "/m%FCnchen.jpg"


def test_a_cookie_of_a_redirect_is_sent_to_the_next_hop_and_no_further(
    server: FaultServer, storage: HttpStorage
) -> None:
    """A server may redirect to the same URL, which it answers once the cookie comes back."""
    again = status(302, {"Location": "/x.jpg", "Set-Cookie": "seen=yes; Path=/"})
    server.script("x.jpg", again, again, ok(DATA))
    server.script("other.jpg", ok(DATA))
    assert storage.read(f"{server.address}/x.jpg")[0] == DATA
    assert storage.read(f"{server.address}/other.jpg")[0] == DATA
    assert [headers.get("cookie") for _, _, headers in server.asked] == [None, "seen=yes", "seen=yes", None]


def test_a_part_that_nobody_asked_for_is_asked_again(server: FaultServer, storage: HttpStorage) -> None:
    part = status(206, {"Content-Range": "bytes 0-4/10"}, DATA[:5])
    server.script("x.jpg", part, ok(DATA))
    assert storage.read(f"{server.address}/x.jpg")[0] == DATA
    server.script("x.jpg", part)
    with pytest.raises(StorageError, match="only a part was received") as caught:
        storage.read(f"{server.address}/x.jpg", timeout=0.2)
    assert (caught.value.cause, caught.value.retry_when) == ("UnexpectedPart", LATER)


@pytest.mark.parametrize("encoding", ["aws-chunked", "UTF-8", "none", "binary", "", "aws-chunked,identity", "8bit"])
def test_encodings_that_are_no_compression(server: FaultServer, storage: HttpStorage, encoding: str) -> None:
    server.script("x.jpg", ok(DATA, {**stored(DATA), "Content-Encoding": encoding}))
    assert storage.read(f"{server.address}/x.jpg")[0] == DATA


def test_an_encoding_among_others(server: FaultServer, storage: HttpStorage) -> None:
    packed = gzip.compress(DATA)
    server.script("x.jpg", ok(packed, {**stored(packed), "Content-Encoding": "aws-chunked, GZIP"}))
    assert storage.read(f"{server.address}/x.jpg")[0] == DATA


def test_what_is_called_gzip_and_is_not(server: FaultServer, storage: HttpStorage) -> None:
    server.script("x.jpg", ok(DATA, {**stored(DATA), "Content-Encoding": "gzip"}))
    assert storage.read(f"{server.address}/x.jpg")[0] == DATA


def test_servers_see_the_address_of_the_project_or_what_the_user_says(
    server: FaultServer, storage: HttpStorage
) -> None:
    server.script("x.jpg", ok(DATA))
    storage.read(f"{server.address}/x.jpg")
    with using(Access(user_agent="Museum/1.0 (mail@museum.example)")):
        storage.read(f"{server.address}/x.jpg")
    first, second = (headers["user-agent"] for _, _, headers in server.asked)
    assert first.startswith("caption-images/")
    assert "(+https://" in first
    assert second == "Museum/1.0 (mail@museum.example)"


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        pytest.param(["noai"], True, id="noai"),
        pytest.param(["noindex, NoImageAI"], True, id="noimageai"),
        pytest.param(["noindex"], False, id="another"),
        pytest.param(["otherbot: noai"], False, id="other-robot"),
        pytest.param(["otherbot: noai", "noai"], True, id="two-headers"),
        pytest.param(["caption-images: noai"], True, id="this-robot"),
        pytest.param(["unavailable_after: 25 Jun 2010 15:00:00 PST, noai"], True, id="after-a-date"),
        pytest.param(["max-snippet:5, noimageai"], True, id="after-a-value"),
    ],
)
def test_noai(server: FaultServer, storage: HttpStorage, headers: list[str], refused: bool) -> None:
    assert bool(forbids_ai(headers)) == refused
    server.script("x.jpg", ok(DATA, {**LENGTH, "X-Robots-Tag": headers[-1]}))
    assert storage.read(f"{server.address}/x.jpg")[0] == DATA
    if refused:
        with using(Access(respect_noai=True)), pytest.raises(StorageError, match="X-Robots-Tag: no") as caught:
            storage.read(f"{server.address}/x.jpg")
        assert (caught.value.cause, caught.value.transient) == ("NoAI", False)


def raw_redirect(location: bytes) -> Step:
    """A redirect whose Location has these bytes."""

    def step(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n")

    return step


@contextlib.contextmanager
def using(access: Access) -> Iterator[None]:
    use_access(access)
    try:
        yield
    finally:
        use_access(Access())
