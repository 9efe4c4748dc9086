"""Files behind `http://` and `https://`, read-only."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable, Iterator, Mapping
from http.cookiejar import DefaultCookiePolicy
from typing import BinaryIO

import requests

from beam_job.storage.access import current_access
from beam_job.storage.allow import Allowed
from beam_job.storage.base import LATER, ByteMeter, StoredObject
from beam_job.storage.checksum import crc32c_of
from beam_job.storage.connections import prepared
from beam_job.storage.download import Part, decoded, download, head, version_in
from beam_job.storage.hosts import HOSTS, host_of
from beam_job.storage.read_only import ReadOnly
from beam_job.storage.redirects import Route
from beam_job.storage.responses import DownloadError, is_transient, public_name
from beam_job.storage.retry import Deadline, Retrying, retrying

_REDIRECTS = 20  # as browsers do
# Servers that would answer a GET may answer these to HEAD.
_NO_HEAD = (400, 403, 405, 501)
_GONE = (404, 410)


class HttpStorage(ReadOnly):
    """Web servers, through one session per process whose connections all threads share.

    Servers keep no versions: `read` returns the present content. Its version is the ETag, or Last-Modified, or else the
    CRC-32C of the body in base64. Credentials are sent only if the URL itself contains them, and only to its host.
    Cookies are kept for the redirects of one request. Each server gets a few requests at a time (`hosts`).

    Args:
      retrying: how to retry.
      allowed: checks the target of each redirect, and whether servers' addresses must be public; None allows all.
    """

    def __init__(self, retrying: Retrying = retrying, allowed: Allowed | None = None) -> None:
        self._retrying = retrying
        self._allowed = allowed
        self._lock = threading.Lock()
        self._opened: requests.Session | None = None

    def list(self, uri: str) -> Iterator[StoredObject]:
        """The file itself: a web server has no folders, and `?` in a URL is no wildcard."""
        with contextlib.suppress(_MissingError):
            yield self.stat(uri)

    def stat(self, uri: str) -> StoredObject:
        """From a HEAD request; if the server refuses it, or sends no length or version, by reading the file."""
        headers = self._retrying(lambda deadline: self._head(uri, deadline), 60.0)
        version = version_in(headers)
        size = headers.get("Content-Length", "")
        if version and size.isdecimal():
            return StoredObject(uri, version, int(size))
        data, version = self.read(uri)
        return StoredObject(uri, version, len(data))

    def is_folder(self, uri: str) -> bool:
        return False

    def read(
        self,
        uri: str,
        version: str | None = None,
        timeout: float = 60.0,
        size: int | None = None,
        crc32c: str | None = None,
        offset: int | None = None,
        max_bytes: int | None = None,
        on_size: Callable[[int], None] | None = None,
    ) -> tuple[bytes, str]:
        part = None if offset is None or size is None else Part(offset, size)
        meter = ByteMeter(public_name(uri), max_bytes, on_size)
        with _noted(host_of(uri) or ""):
            return self._retrying(lambda deadline: self._read(uri, deadline, meter, part), timeout)

    def open(self, uri: str) -> BinaryIO:
        return io.BytesIO(self.read(uri)[0])

    def exists(self, uri: str) -> bool:
        try:
            self.stat(uri)
        except _MissingError:
            return False
        return True

    def close(self) -> None:
        """Closes the connections; the next call opens new ones."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
            self._opened = None

    def _read(self, uri: str, deadline: Deadline, meter: ByteMeter, part: Part | None) -> tuple[bytes, str]:
        with _http_errors(host_of(uri) or ""):
            got = download(self._session(), uri, _headers(), deadline, meter, part=part, route=self._route())
            data = decoded(got, meter, public_name(uri))
        # The checksum of a part says nothing about the whole.
        return data, version_in(got.headers) or (crc32c_of(data) if part is None else "")

    def _head(self, uri: str, deadline: Deadline) -> Mapping[str, str]:
        try:
            with _http_errors(host_of(uri) or ""):
                return head(self._session(), uri, _headers(), deadline, route=self._route())
        except DownloadError as error:
            if error.status not in _NO_HEAD:
                raise
        return {}

    def _route(self) -> Route:
        return Route(_REDIRECTS, self._allowed, current_access().respect_noai, takes_turns=True)

    def _session(self) -> requests.Session:
        with self._lock:
            if self._opened is None:
                only_public = self._allowed is not None and not self._allowed.private_addresses
                session = prepared(requests.Session(), only_public)
                # A cookie from one answer must not change what another thread gets.
                session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
                self._opened = session
            return self._opened


class _MissingError(DownloadError):
    """The server says that there is no such file: 404 or 410."""


def _headers() -> Mapping[str, str]:
    return {"User-Agent": current_access().user_agent}


@contextlib.contextmanager
def _noted(host: str) -> Iterator[None]:
    """Notes whether `host` answers, or fails for reasons that are not this file's."""
    try:
        yield
        HOSTS.answered(host)
    except DownloadError as error:
        if error.retry_when == LATER and (error.status is None or is_transient(error.status)):
            HOSTS.failed(host)
        else:
            HOSTS.answered(host)
        raise


@contextlib.contextmanager
def _http_errors(host: str) -> Iterator[None]:
    """Does not retry within the run what would cost a minute each time: unknown hosts, and hosts that keep failing."""
    try:
        yield
    except DownloadError as error:
        if error.unknown_host or not HOSTS.has_patience(host):
            error.transient = False
        if error.status in _GONE:
            raise _missing(error) from error
        raise


def _missing(error: DownloadError) -> _MissingError:
    missing = _MissingError(str(error), error.cause, retry_when=error.retry_when)
    missing.status = error.status
    return missing
