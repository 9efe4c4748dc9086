"""Files behind `http://` and `https://`, read-only."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator, Mapping
from http.cookiejar import DefaultCookiePolicy
from typing import BinaryIO

import requests

from beam_job import __version__
from beam_job.storage.allow import Allowed
from beam_job.storage.base import StoredObject
from beam_job.storage.checksum import crc32c_of
from beam_job.storage.connections import pooled
from beam_job.storage.download import Part, decoded, download, head
from beam_job.storage.read_only import ReadOnly
from beam_job.storage.responses import DownloadError, public_name
from beam_job.storage.retry import Deadline, Retrying, retrying

MAX_BYTES = 1 << 30
_REDIRECTS = 5
# Answers to HEAD from servers that would answer a GET.
_NO_HEAD = (400, 403, 405, 501)
_GONE = (404, 410)


class HttpStorage(ReadOnly):
    """Web servers through one session a process; its threads share the connections.

    Servers keep no versions: `read` takes what is there. The version is the ETag, or Last-Modified, or else the CRC-32C
    of the body in base64.

    Args:
      retrying: how to try again.
      allowed: asked for the target of each redirect, and whether servers' addresses must be public; None: no questions.
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
        """By HEAD; where a server refuses that, or tells neither length nor version, by reading the file."""
        headers = self._retrying(lambda deadline: self._head(uri, deadline), 60.0)
        version = _version(headers)
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
    ) -> tuple[bytes, str]:
        part = None if offset is None or size is None else Part(offset, size)
        return self._retrying(lambda deadline: self._read(uri, deadline, part), timeout)

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

    def _read(self, uri: str, deadline: Deadline, part: Part | None) -> tuple[bytes, str]:
        with _http_errors():
            got = download(
                self._session(), uri, {}, deadline, MAX_BYTES, part=part, redirects=_REDIRECTS, allowed=self._allowed
            )
            data = decoded(got, MAX_BYTES, public_name(uri))
        # A part's checksum tells nothing of the whole.
        return data, _version(got.headers) or (crc32c_of(data) if part is None else "")

    def _head(self, uri: str, deadline: Deadline) -> Mapping[str, str]:
        try:
            with _http_errors():
                return head(self._session(), uri, {}, deadline, redirects=_REDIRECTS, allowed=self._allowed)
        except DownloadError as error:
            if error.status not in _NO_HEAD:
                raise
        return {}

    def _session(self) -> requests.Session:
        with self._lock:
            if self._opened is None:
                only_public = self._allowed is not None and not self._allowed.private_addresses
                session = pooled(_Session(), only_public)
                session.headers["User-Agent"] = f"caption-images/{__version__}"
                # What one server sets must not change what another thread gets.
                session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
                self._opened = session
            return self._opened


class _Session(requests.Session):
    """Follows no redirects and prepares for none: that would read their bodies whole, and stumble over odd targets."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        return None


class _MissingError(DownloadError):
    """The server says that there is no such file."""


def _version(headers: Mapping[str, str]) -> str:
    return headers.get("ETag") or headers.get("Last-Modified") or ""


@contextlib.contextmanager
def _http_errors() -> Iterator[None]:
    """Gives up at once on hosts that do not exist: lists of old URLs are full of them, and each would cost a minute."""
    try:
        yield
    except DownloadError as error:
        if error.unknown_host:
            error.transient = False
        if error.status in _GONE:
            raise _MissingError(str(error), error.cause) from error
        raise
