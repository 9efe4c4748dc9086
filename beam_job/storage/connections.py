"""HTTP sessions for many threads: total deadlines, public addresses only if asked, and no credentials from `~/.netrc`.

A socket timeout bounds one `recv`, so a server that sends a byte a second never exceeds it, in the body or in the
headers. Here each `recv` gets the rest of the total deadline, below requests, urllib3 and http.client: it holds for the
status line, headers, chunk sizes and body.
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
import requests.auth
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NewConnectionError
from urllib3.util.connection import create_connection

from beam_job.storage.allow import check_addresses, resolve
from beam_job.storage.retry import Deadline

# More than the 32 threads that fetch: connections beyond the pool's size are closed instead of reused.
POOL_SIZE = 64
# A silent connection is given up after this many seconds even before the deadline, so that another attempt fits in.
STALL_S = 20.0

_DEADLINE: contextvars.ContextVar[tuple[Deadline, float] | None] = contextvars.ContextVar("deadline", default=None)


@contextlib.contextmanager
def keep_deadline(deadline: Deadline, stall: float = STALL_S) -> Iterator[None]:
    """Within this block, every read of this thread from a session made by `prepared` keeps `deadline`.

    Args:
      deadline: for all of them.
      stall: seconds after which a connection that stays silent is given up.
    """
    token = _DEADLINE.set((deadline, stall))
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def prepared(session: requests.Session, only_public: bool = False, pool_size: int = POOL_SIZE) -> requests.Session:
    """`session` with large connection pools, reads that keep deadlines, no redirects and no credentials of its own.

    Proxies and certificates of the environment (`HTTPS_PROXY`, `NO_PROXY`, `REQUESTS_CA_BUNDLE`) still apply. Redirects
    are for the caller to follow: requests would send credentials from `~/.netrc` to their targets.

    Args:
      session: new, or a new client's.
      only_public: connect only to servers all of whose addresses are public, and to exactly those addresses: a second
        look-up of the name could return another one. A proxy from the environment may have any address. It resolves
        names itself, so its administrator decides what it may reach; here only names that this machine resolves to a
        private address are refused.
      pool_size: connections that are kept open.
    """
    session.auth = _UrlAuth()
    if (token_session := getattr(session, "_auth_request_session", None)) is not None:  # google-auth's, for new tokens
        token_session.auth = _UrlAuth()
    setattr(session, "get_redirect_target", lambda response: None)  # noqa: B010  # mypy refuses to replace a method
    adapter_class = _PublicAdapter if only_public else _ClockedAdapter

    def adapter() -> _ClockedAdapter:
        made = adapter_class(pool_size, pool_size)
        made.is_googles = hasattr(session, "credentials")
        return made

    session.mount("http://", adapter())
    if not getattr(session, "is_mtls", False):  # its own adapter carries the client certificate
        session.mount("https://", adapter())
    return session


class _UrlAuth(requests.auth.AuthBase):
    """User and password from the URL; that a session has this keeps requests from looking into `~/.netrc`."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        user, password = requests.utils.get_auth_from_url(str(request.url))
        return requests.auth.HTTPBasicAuth(user, password)(request) if user or password else request


class _ClockedSocketIO(io.RawIOBase):
    """A socket's raw file; no read waits longer than the deadline, or than a stall may last."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: Deadline, stall: float) -> None:
        self._raw = raw
        self._sock = sock
        self._deadline = deadline
        self._stall = stall

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline.left()
        if left <= 0.0:
            raise TimeoutError("the deadline has passed")
        self._sock.settimeout(min(left, self._stall))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _ClockedResponse(http.client.HTTPResponse):
    """A response all of whose reads keep the deadline, from its first byte on."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        clocked = _DEADLINE.get()
        if clocked is not None:
            self.fp: Any = io.BufferedReader(_ClockedSocketIO(self.fp.detach(), sock, *clocked))


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
    """A socket to a checked address. Host header and certificate are still those of the name."""
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
    """Requests' adapter over the connections above, also through proxies, without retries of its own."""

    _pools: dict[str, Any] = _POOLS
    is_googles = False  # whether its session is google-auth's

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        response = super().send(*args, **kwargs)
        if (
            response.status_code == 401 and self.is_googles
        ):  # it drops the body and repeats the request with a new token
            response.close()
        return response

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):  # SOCKS has connection classes of its own
            manager.pool_classes_by_scheme = _POOLS
        return manager


class _PublicAdapter(_ClockedAdapter):
    """The same adapter, for servers with public addresses only."""

    _pools = _PUBLIC_POOLS

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        if requests.utils.select_proxy(str(request.url), kwargs.get("proxies")):
            host = urllib.parse.urlsplit(str(request.url)).hostname or ""
            addresses: list[str] = []
            with contextlib.suppress(OSError, UnicodeError):  # names that only the proxy can resolve
                addresses = resolve(host, None)
            check_addresses(host, addresses)
        return super().send(request, *args, **kwargs)
