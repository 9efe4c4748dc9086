"""One HTTP body, whole or not at all: streamed under a total deadline, measured, never resumed.

The clients' own helpers are not used because they were seen to return flipped and short bytes, and to let a server that
drips a byte at a time run on: their timeouts bound one `recv`. A body that breaks is asked for again from its start (by
`retrying`), since two halves of different answers put together are what the clients' checksums missed.

Two waits are out of reach: the system's look-up of a host's name, and a host with several dead addresses, which costs
the connection timeout for each of them.
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
from beam_job.storage.checksum import check
from beam_job.storage.connections import STALL_S, keep_deadline
from beam_job.storage.responses import DownloadError, broken, public_name, status_error
from beam_job.storage.retry import Deadline

_CONNECT_S = 10.0
_CHUNK = 1 << 18
_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True)
class Downloaded:
    """A body as it came over the wire, not decoded, and the response's headers (looked up in any case)."""

    data: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Part:
    """`size` bytes from `offset` on; `size` is 1 or more."""

    offset: int
    size: int

    @property
    def header(self) -> str:
        """As a Range header says it (RFC 9110, section 14.2)."""
        return f"bytes={self.offset}-{self.offset + self.size - 1}"

    def of(self, body: bytes, response: requests.Response, name: str) -> bytes:
        """The part, out of an answer's body that is the part or all."""
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
    max_bytes: int | None,
    *,
    part: Part | None = None,
    redirects: int = 0,
    allowed: Allowed | None = None,
    name: str | None = None,
) -> Downloaded:
    """The body of a GET, or a part of it.

    The server is asked for `Accept-Encoding: identity` unless `headers` ask for something else. The body is returned
    undecoded in any case, because that is what lengths and checksums are about; `decoded` undoes gzip afterwards.

    Args:
      session: through `pooled`; its threads share the connections.
      url: of the media.
      headers: of the request.
      deadline: of all of it: connecting, headers, redirects and body.
      max_bytes: a longer body is refused, before it is read where its length is announced.
      part: what to ask for; a server that knows no ranges sends all, and the part is cut out here.
      redirects: how many to follow.
      allowed: asked for the target of each; None: no questions.
      name: what errors call it; the URL without its query if not given.

    Raises:
      DownloadError: transient for 408, 429, 5xx, broken connections, the deadline, and a body shorter than announced.
        (A body that neither has a length nor comes in chunks ends where the server closes: that cannot be checked.)
      NotAllowedError: a redirect leads, or the connection would, where nothing may be read.
    """
    name = name or public_name(url)
    headers = headers if part is None else {**headers, "Range": part.header}
    with keep_deadline(deadline), _opened(session, "GET", url, headers, deadline, redirects, allowed, name) as response:
        data = b"".join(_chunks(response, deadline, max_bytes, name))
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
    """Writes the body of a GET to `file`, as `download` reads it, and returns the response's headers."""
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
    """The headers of a HEAD that is answered with 200; errors as those of `download`."""
    name = public_name(url)
    with (
        keep_deadline(deadline),
        _opened(session, "HEAD", url, headers, deadline, redirects, allowed, name) as response,
    ):
        return response.headers


def decoded(downloaded: Downloaded, max_bytes: int, name: str) -> bytes:
    """The body without the gzip that its `Content-Encoding` declares.

    Raises:
      DownloadError: the encoding is another one, the body is no such thing, or it unpacks to more than `max_bytes`.
    """
    encoding = downloaded.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        return downloaded.data
    if encoding not in ("gzip", "x-gzip"):
        raise DownloadError(f"{name}: came with Content-Encoding: {encoding:.40}, which was not asked for")
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(downloaded.data)) as file:
            data = file.read(max_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DownloadError(f"{name}: its gzip encoding is damaged: {error}", type(error).__name__) from error
    if len(data) > max_bytes:
        raise _too_large(name, max_bytes)
    return data


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
    """The response of status 200, its body unread; closed afterwards, which drops a connection with a body unread."""
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
    """Where a redirect leads."""
    try:
        return urllib.parse.urljoin(url, location)
    except ValueError as error:  # brackets that are no IPv6 address
        raise DownloadError(f"{name}: is redirected to what is not a URL", type(error).__name__) from None


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


def _chunks(response: requests.Response, deadline: Deadline, max_bytes: int | None, name: str) -> Iterator[bytes]:
    announced = response.headers.get("Content-Length", "")
    expected = int(announced) if announced.isdecimal() else None
    limit = float("inf") if max_bytes is None else max_bytes
    if expected is not None and expected > limit:
        raise _too_large(name, max_bytes)
    received = 0
    while chunk := response.raw.read1(_CHUNK, decode_content=False):
        received += len(chunk)
        if received > limit:
            raise _too_large(name, max_bytes)
        yield chunk
        if deadline.expired and received != expected:
            raise DownloadError(f"{name}: {received} bytes had come when its time was over", "TimeoutError", True)
    if expected is not None and received != expected:
        raise DownloadError(f"{name}: {received} of {expected} bytes came", "IncompleteRead", True)


def _too_large(name: str, max_bytes: int | None) -> DownloadError:
    return DownloadError(f"{name}: more than {max_bytes} bytes", "TooLarge")


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Says in a refusal which URI led there."""
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
