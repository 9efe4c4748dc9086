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
import urllib.parse
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import requests
import urllib3

from beam_job.storage.allow import Allowed, NotAllowedError
from beam_job.storage.base import CONTENT, OPTIONS, ByteMeter
from beam_job.storage.checksum import check
from beam_job.storage.connections import STALL_S, keep_deadline
from beam_job.storage.responses import DownloadError, broken, public_name, status_error
from beam_job.storage.retry import Deadline

_CONNECT_S = 10.0
_CHUNK = 1 << 18
_REDIRECTS = (301, 302, 303, 307, 308)


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
            raise DownloadError(f"{name}: {came} came instead of {self.header}", "RangeMismatch", transient=True)
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
    redirects: int = 0,
    allowed: Allowed | None = None,
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
      redirects: how many to follow.
      allowed: checks the target of each redirect; None allows all.
      name: for error messages; the URL without its query if not given.

    Raises:
      DownloadError: transient for 408, 429, 5xx, broken connections, the deadline, and a body shorter than announced.
        (A body with neither a length nor chunks ends where the server closes: that cannot be checked.)
      TooLargeError: the body is too large.
      NotAllowedError: a redirect or the host's address is not allowed.
    """
    name = name or public_name(url)
    headers = headers if part is None else {**headers, "Range": part.header}
    with keep_deadline(deadline), _opened(session, "GET", url, headers, deadline, redirects, allowed, name) as response:
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
    with keep_deadline(deadline), _opened(session, "GET", url, headers, deadline, 0, None, name) as response:
        for chunk in _chunks(response, deadline, None, name):
            file.write(chunk)
        return response.headers


def head(
    session: requests.Session,
    url: str,
    headers: Mapping[str, str],
    deadline: Deadline,
    *,
    redirects: int = 0,
    allowed: Allowed | None = None,
) -> Mapping[str, str]:
    """The headers of a successful HEAD; raises the errors of `download`."""
    name = public_name(url)
    with (
        keep_deadline(deadline),
        _opened(session, "HEAD", url, headers, deadline, redirects, allowed, name) as response,
    ):
        return response.headers


def decoded(downloaded: Downloaded, meter: ByteMeter, name: str) -> bytes:
    """The body without the gzip that its `Content-Encoding` declares, decompressed only as far as the limit.

    Raises:
      DownloadError: the encoding is another one, or the body is damaged.
      TooLargeError: the decompressed body is too large.
    """
    encoding = downloaded.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        return downloaded.data
    if encoding not in ("gzip", "x-gzip"):
        raise DownloadError(
            f"{name}: came with Content-Encoding: {encoding:.40}, which was not asked for", retry_when=CONTENT
        )
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


def version_in(headers: Mapping[str, str]) -> str:
    """The version that a web server gives a file; "" if it gives none."""
    return headers.get("ETag") or headers.get("Last-Modified") or ""


@contextlib.contextmanager
def _opened(
    session: requests.Session,
    method: str,
    url: str,
    headers: Mapping[str, str],
    deadline: Deadline,
    redirects: int,
    allowed: Allowed | None,
    name: str,
) -> Iterator[requests.Response]:
    """The successful response, its body unread; closing it drops a connection whose body was not read to the end."""
    for _ in range(redirects + 1):
        with _connection_errors(name), contextlib.closing(_sent(session, method, url, headers, deadline)) as response:
            if response.status_code in (http.HTTPStatus.OK, http.HTTPStatus.PARTIAL_CONTENT):
                yield response
                return
            target = response.headers.get("Location") if response.status_code in _REDIRECTS else None
            if target is None or not redirects:
                raise status_error(response, name)
        url = _target_of(url, target, name)
        if allowed is not None:
            with _named(name):
                allowed.check(url)
    raise DownloadError(f"{name}: more than {redirects} redirects", "TooManyRedirects")


def _target_of(url: str, location: str, name: str) -> str:
    """The target of a redirect."""
    try:
        return urllib.parse.urljoin(url, location)
    except ValueError as error:  # brackets that are no IPv6 address
        raise DownloadError(f"{name}: is redirected to an invalid URL", type(error).__name__) from None


def _sent(
    session: requests.Session, method: str, url: str, headers: Mapping[str, str], deadline: Deadline
) -> requests.Response:
    left = max(deadline.left(), 0.001)  # 0 would mean no timeout, or an error
    return session.request(
        method,
        url,
        headers={"Accept-Encoding": "identity", **headers},
        stream=True,
        allow_redirects=False,
        timeout=(min(left, _CONNECT_S), min(left, STALL_S)),
    )


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
            raise DownloadError(f"{name}: only {received} bytes came within the time limit", "TimeoutError", True)
    if expected is not None and received != expected:
        raise DownloadError(f"{name}: {received} of {expected} bytes came", "IncompleteRead", True)


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
