"""One HTTP body, whole or not at all: streamed under a total deadline and a limit of bytes, never resumed.

The clients' own helpers are not used because they returned flipped and short bytes in tests, and let a server that
sends a byte at a time go on for ever: their timeouts bound one `recv`. A body that breaks off is requested again from
its start (by `retrying`), since the clients' checksums missed halves of different answers that were put together.

Two waits cannot be bounded here: the system's look-up of a host's name, and a host with several dead addresses, each of
which costs the connection timeout.
"""

from __future__ import annotations

import contextlib
import gzip
import http
import io
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import requests
import urllib3

from beam_job.storage.allow import NotAllowedError
from beam_job.storage.base import CONTENT, OPTIONS, ByteMeter
from beam_job.storage.checksum import check
from beam_job.storage.connections import keep_deadline
from beam_job.storage.redirects import Request, Route, is_part
from beam_job.storage.responses import DownloadError, broken, public_name
from beam_job.storage.retry import Deadline

_CHUNK = 1 << 18
_GZIP = ("gzip", "x-gzip")
_GZIP_START = b"\x1f\x8b"
# Compressions that nobody asked for and that are not decoded here. Other values (`aws-chunked`, `UTF-8`, `none`, ...)
# name no compression at all: uploaders write them by mistake, and every browser shows such a picture.
_OTHER_COMPRESSIONS = ("br", "compress", "x-compress", "dcb", "dcz", "deflate", "zstd")
_DIRECT = Route()


@dataclass(frozen=True)
class Downloaded:
    """A body as it was transferred, not decoded, and the response's headers (case-insensitive)."""

    data: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Part:
    """`size` bytes from `offset` on; `size` is 1 or more."""

    offset: int
    size: int

    @property
    def header(self) -> str:
        """The value of a Range header (RFC 9110, section 14.2)."""
        return f"bytes={self.offset}-{self.offset + self.size - 1}"

    def of(self, body: bytes, response: requests.Response, name: str) -> bytes:
        """The part, from a body that is either the part or the whole."""
        if response.status_code == http.HTTPStatus.OK:
            body = body[self.offset : self.offset + self.size]
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {self.offset}-"):
            came = response.headers.get("Content-Range", "a part without Content-Range")
            raise DownloadError(f"{name}: received {came} instead of {self.header}", "RangeMismatch", transient=True)
        check(body, self.size, name=name)
        return body


def download(
    session: requests.Session,
    url: str,
    headers: Mapping[str, str],
    deadline: Deadline,
    meter: ByteMeter,
    *,
    part: Part | None = None,
    route: Route = _DIRECT,
    name: str | None = None,
) -> Downloaded:
    """The body of a GET, or a part of it.

    The server is asked for `Accept-Encoding: identity` unless `headers` say otherwise. The body is always returned
    undecoded, because lengths and checksums are those of the encoded body; `decoded` decompresses it afterwards.

    Args:
      session: made by `prepared`; its threads share the connections.
      url: of the media.
      headers: of the request.
      deadline: for everything: connecting, headers, redirects and body.
      meter: refuses a longer body, before it is read if its length is announced.
      part: what to request; a server without support for ranges sends everything, and the part is cut out here.
      route: which redirects to follow, and more.
      name: for error messages; the URL without its query if not given.

    Raises:
      DownloadError: transient for 408, 429, 5xx, broken connections, the deadline, a body shorter than announced, and
        a part that was not asked for. (A body with neither a length nor chunks ends where the server closes: that
        cannot be checked.)
      TooLargeError: the body is too large.
      NotAllowedError: a redirect or the host's address is not allowed.
    """
    name = name or public_name(url)
    headers = headers if part is None else {**headers, "Range": part.header}
    request = Request(session, "GET", headers, deadline, route, name)
    with keep_deadline(deadline), _connection_errors(name), request.open(url) as response:
        if part is None and is_part(response):
            came = response.headers.get("Content-Range", "no Content-Range")
            raise DownloadError(
                f"{name}: only a part was received, without being requested ({came})", "UnexpectedPart", transient=True
            )
        data = b"".join(_chunks(response, deadline, meter, name))
        if part is not None:
            data = part.of(data, response, name)
        return Downloaded(data, response.headers)


def download_to(
    file: BinaryIO,
    session: requests.Session,
    url: str,
    headers: Mapping[str, str],
    deadline: Deadline,
    *,
    name: str,
) -> Mapping[str, str]:
    """Like `download`, but writes the body to `file`, without a limit, and returns the response's headers."""
    request = Request(session, "GET", headers, deadline, _DIRECT, name)
    with keep_deadline(deadline), _connection_errors(name), request.open(url) as response:
        for chunk in _chunks(response, deadline, None, name):
            file.write(chunk)
        return response.headers


def head(
    session: requests.Session,
    url: str,
    headers: Mapping[str, str],
    deadline: Deadline,
    *,
    route: Route = _DIRECT,
) -> Mapping[str, str]:
    """The headers of a successful HEAD; raises the errors of `download`."""
    name = public_name(url)
    request = Request(session, "HEAD", headers, deadline, route, name)
    with keep_deadline(deadline), _connection_errors(name), request.open(url) as response:
        return response.headers


def decoded(downloaded: Downloaded, meter: ByteMeter, name: str) -> bytes:
    """The body without the gzip that its `Content-Encoding` declares, decompressed only as far as the limit.

    Raises:
      DownloadError: the encoding is another one, or the body is damaged.
      TooLargeError: the decompressed body is too large.
    """
    if not is_packed(downloaded.headers, downloaded.data[: len(_GZIP_START)], name):
        return downloaded.data
    pieces: list[bytes] = []
    total = 0
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(downloaded.data)) as file:
            while piece := file.read(_CHUNK):
                total += len(piece)
                meter.check(total, held=len(downloaded.data))
                pieces.append(piece)
    except (OSError, EOFError, zlib.error) as error:
        reason = f"{name}: its gzip encoding is damaged: {error}"
        raise DownloadError(reason, type(error).__name__, retry_when=CONTENT) from error
    return b"".join(pieces)


def is_packed(headers: Mapping[str, str], start: bytes, name: str) -> bool:
    """Whether a body is compressed with gzip: its `Content-Encoding` says so, and so does its `start` of two bytes.

    Raises:
      DownloadError: it is compressed in another way.
    """
    encodings = [encoding.strip().lower() for encoding in headers.get("Content-Encoding", "").split(",")]
    for encoding in encodings:
        if encoding in _OTHER_COMPRESSIONS:
            raise DownloadError(
                f"{name}: came with Content-Encoding: {encoding}, which was not requested", retry_when=CONTENT
            )
    return any(encoding in _GZIP for encoding in encodings) and start == _GZIP_START


def version_in(headers: Mapping[str, str]) -> str:
    """The version that a web server gives a file; "" if it gives none."""
    return headers.get("ETag") or headers.get("Last-Modified") or ""


def _chunks(response: requests.Response, deadline: Deadline, meter: ByteMeter | None, name: str) -> Iterator[bytes]:
    announced = response.headers.get("Content-Length", "")
    expected = int(announced) if announced.isdecimal() else None
    if meter is not None:
        meter.version = meter.version or version_in(response.headers) or None
        meter.check(expected or 0)
    received = 0
    while chunk := response.raw.read1(_CHUNK, decode_content=False):
        received += len(chunk)
        if meter is not None:
            meter.check(received)
        yield chunk
        if deadline.expired and received != expected:
            raise DownloadError(
                f"{name}: only {received} bytes were received within the time limit", "TimeoutError", True
            )
    if expected is not None and received != expected:
        raise DownloadError(f"{name}: received {received} of {expected} bytes", "IncompleteRead", True)


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Adds to a refusal the URI that led to it."""
    try:
        yield
    except NotAllowedError as error:
        raise NotAllowedError(f"{name}: {error}") from None


@contextlib.contextmanager
def _connection_errors(name: str) -> Iterator[None]:
    try:
        with _named(name):
            yield
    except (requests.RequestException, urllib3.exceptions.HTTPError, UnicodeError) as error:
        failure, cause = broken(error, name)
        raise failure from cause
    except OSError as error:  # of this machine: REQUESTS_CA_BUNDLE names no file, or the disk is full
        raise DownloadError(f"{name}: {error}", type(error).__name__, retry_when=OPTIONS) from error
