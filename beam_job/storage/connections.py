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
import urllib.parse
from collections.abc import Iterator
from typing import Any

import requests
import requests.adapters
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NewConnectionError
from urllib3.util.connection import create_connection

from beam_job.storage.allow import check_addresses, resolve
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


def pooled(session: requests.Session, only_public: bool = False) -> requests.Session:
    """`session` with connection pools large enough for the fetching threads, and with reads that keep deadlines.

    Args:
      session: new.
      only_public: connect to servers whose addresses are all public, and to those very addresses: a name that is looked
        up twice may answer with another address the second time. A proxy out of the environment may have any address;
        it does its own looking up, so what it may reach is its administrator's to decide, and here only names that
        this machine knows by a private address are refused.
    """
    adapter = _PublicAdapter if only_public else _ClockedAdapter
    session.mount("http://", adapter(POOL_SIZE, POOL_SIZE))
    if not getattr(session, "is_mtls", False):  # its own adapter carries the client certificate
        session.mount("https://", adapter(POOL_SIZE, POOL_SIZE))
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


class _PublicHttp(_ClockedHttp):
    def _new_conn(self) -> socket.socket:
        return _connect_to_public(self)


class _PublicHttps(_ClockedHttps):
    def _new_conn(self) -> socket.socket:
        return _connect_to_public(self)


def _connect_to_public(connection: HTTPConnection) -> socket.socket:
    """A socket to an address that was checked. Host header and certificate stay those of the name."""
    failed: OSError | None = None
    try:
        addresses = resolve(connection.host, connection.port)
        check_addresses(connection.host, addresses)
        for address in addresses:
            try:
                return create_connection(
                    (address, connection.port),
                    connection.timeout,
                    source_address=connection.source_address,
                    socket_options=connection.socket_options,
                )
            except OSError as error:
                failed = error
    except OSError as error:
        failed = error
    raise NewConnectionError(connection, f"no connection to {connection.host}") from failed


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _ClockedHttp


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _ClockedHttps


class _PublicHttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _PublicHttp


class _PublicHttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _PublicHttps


_POOLS = {"http": _HttpPool, "https": _HttpsPool}
_PUBLIC_POOLS = {"http": _PublicHttpPool, "https": _PublicHttpsPool}


class _ClockedAdapter(requests.adapters.HTTPAdapter):
    """Requests' adapter, without retries of its own, over the connections above; through proxies, too."""

    _pools: dict[str, Any] = _POOLS

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        response = super().send(*args, **kwargs)
        if response.status_code == 401:  # google-auth drops it unread and asks anew with new credentials
            response.close()
        return response

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):  # its connections are of another kind
            manager.pool_classes_by_scheme = _POOLS
        return manager


class _PublicAdapter(_ClockedAdapter):
    """The same for servers with public addresses."""

    _pools = _PUBLIC_POOLS

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        if requests.utils.select_proxy(str(request.url), kwargs.get("proxies")):
            host = urllib.parse.urlsplit(str(request.url)).hostname or ""
            addresses: list[str] = []
            with contextlib.suppress(OSError, UnicodeError):  # names that only the proxy knows
                addresses = resolve(host, None)
            check_addresses(host, addresses)
        return super().send(request, *args, **kwargs)
