"""HTTP connections for many threads whose every read keeps the deadline of the download that it belongs to.

A socket timeout bounds one `recv`, so a server that sends a byte a second passes any of them, in the body and in the
headers alike. Here each `recv` gets what is left of the total, below everything that requests, urllib3 and http.client
do on top of it: status line, headers, chunk sizes and body.
"""

from __future__ import annotations

import contextlib
import contextvars
import http.client
import io
import socket
from collections.abc import Iterator
from typing import Any

import requests
import requests.adapters
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from beam_job.storage.retry import Deadline

# More than the 32 threads that fetch: a connection that finds the pool full is closed instead of kept.
POOL_SIZE = 64
# A connection on which nothing moves for so long is given up before the deadline, so that another attempt fits in.
STALL_S = 20.0

_DEADLINE: contextvars.ContextVar[Deadline | None] = contextvars.ContextVar("deadline", default=None)


@contextlib.contextmanager
def keep_deadline(deadline: Deadline) -> Iterator[None]:
    """Makes every read of this thread from a connection of `pooled` keep `deadline`."""
    token = _DEADLINE.set(deadline)
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def pooled(session: requests.Session) -> requests.Session:
    """`session` with connection pools large enough for the fetching threads, and with reads that keep deadlines."""
    session.mount("http://", _ClockedAdapter(POOL_SIZE, POOL_SIZE))
    if not getattr(session, "is_mtls", False):  # its own adapter carries the client certificate
        session.mount("https://", _ClockedAdapter(POOL_SIZE, POOL_SIZE))
    return session


class _ClockedSocketIO(io.RawIOBase):
    """A socket's raw file; each read waits for what is left of the deadline at most."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: Deadline) -> None:
        self._raw = raw
        self._sock = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline.left()
        if left <= 0.0:
            raise TimeoutError("the deadline has passed")
        self._sock.settimeout(min(left, STALL_S))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _ClockedResponse(http.client.HTTPResponse):
    """A response that reads through the clock, from its first byte on."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        deadline = _DEADLINE.get()
        if deadline is not None:
            self.fp: Any = io.BufferedReader(_ClockedSocketIO(self.fp.detach(), sock, deadline))


class _ClockedHttp(HTTPConnection):
    response_class = _ClockedResponse


class _ClockedHttps(HTTPSConnection):
    response_class = _ClockedResponse


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _ClockedHttp


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _ClockedHttps


_POOLS = {"http": _HttpPool, "https": _HttpsPool}


class _ClockedAdapter(requests.adapters.HTTPAdapter):
    """Requests' adapter, without retries of its own, over the connections above; through proxies, too."""

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        response = super().send(*args, **kwargs)
        if response.status_code == 401:  # google-auth drops it unread and asks anew with new credentials
            response.close()
        return response

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):  # its connections are of another kind
            manager.pool_classes_by_scheme = _POOLS
        return manager
