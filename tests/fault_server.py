"""A web server of this machine that misbehaves as told, one answer after the other."""

from __future__ import annotations

import base64
import contextlib
import http.client
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import google_crc32c

from tests.http_servers import QuietHandler, serve_http

Step = Callable[["Handler"], None]


@dataclass
class FaultServer:
    """Answers `/download/storage/v1/b/BUCKET/o/NAME?alt=media`, as Google does, and `/NAME`.

    Attributes:
      address: `http://127.0.0.1:PORT`.
      asked: method, path with query, and headers in lower case, of each request.
      connections: how many were accepted.
      stopping: set at the end; ends what drips and stalls.
      otherwise: what requests without a script get.
    """

    address: str = ""
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    connections: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)
    otherwise: Step | None = None
    _scripts: dict[str, list[Step]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def script(self, name: str, *steps: Step) -> None:
        """What requests for `name` get, in turn; the last step is repeated."""
        self._scripts[name] = list(steps)

    def step(self, path: str) -> Step:
        """The next answer for a path; without a script `otherwise`, or else 404."""
        name = urllib.parse.unquote(urllib.parse.urlsplit(path).path.rpartition("/")[2])
        with self._lock:
            steps = self._scripts.get(name, [self.otherwise or status(404)])
            return steps.pop(0) if len(steps) > 1 else steps[0]


class Handler(QuietHandler):
    """One connection."""

    faults: FaultServer
    sent: bytes

    def setup(self) -> None:
        self.faults.connections += 1
        super().setup()

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.faults.asked.append((self.command, self.path, headers))
        self.sent = self.rfile.read(int(headers.get("content-length", 0)))
        with contextlib.suppress(ConnectionError):
            self.faults.step(self.path)(self)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def head(self, code: int, headers: dict[str, str]) -> None:
        self.send_response_only(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def body(self, data: bytes) -> None:
        if self.command != "HEAD":
            self.wfile.write(data)


def stored(data: bytes, generation: str = "1") -> dict[str, str]:
    """The headers of an object that holds `data`."""
    checksum = base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()
    return {
        "Content-Length": str(len(data)),
        "ETag": f'"{generation}"',
        "x-goog-generation": generation,
        "x-goog-hash": f"crc32c={checksum},md5=AAAAAAAAAAAAAAAAAAAAAA==",
    }


def ok(data: bytes, headers: dict[str, str] | None = None) -> Step:
    """All is well."""

    def step(handler: Handler) -> None:
        handler.head(200, stored(data) if headers is None else headers)
        handler.body(data)
        handler.close_connection = headers is not None and "Content-Length" not in headers

    return step


def status(code: int, headers: dict[str, str] | None = None, text: bytes = b"") -> Step:
    """An error, with a body in plain text."""

    def step(handler: Handler) -> None:
        handler.head(code, {"Content-Length": str(len(text)), "Content-Type": "text/plain", **(headers or {})})
        handler.body(text)

    return step


def flipped(data: bytes) -> Step:
    """One bit is wrong; the checksum is that of the right bytes."""
    return ok(bytes([data[0] ^ 1]) + data[1:], stored(data))


def cut(data: bytes, sent: int) -> Step:
    """The connection is closed in good order after `sent` bytes."""

    def step(handler: Handler) -> None:
        handler.head(200, stored(data))
        handler.body(data[:sent])
        handler.close_connection = True

    return step


def reset(data: bytes, sent: int) -> Step:
    """The connection is reset after `sent` bytes."""

    def step(handler: Handler) -> None:
        handler.head(200, stored(data))
        handler.body(data[:sent])
        handler.drop()

    return step


def broken_chunk(data: bytes) -> Step:
    """A body in chunks that ends without the last one."""

    def step(handler: Handler) -> None:
        handler.head(200, {"Transfer-Encoding": "chunked", "x-goog-generation": "1"})
        handler.body(b"%x\r\n%s\r\n" % (len(data), data))
        handler.close_connection = True

    return step


def drip(data: bytes, every_s: float = 0.05) -> Step:
    """The body a byte at a time."""

    def step(handler: Handler) -> None:
        handler.head(200, stored(data))
        _drip(handler, data, every_s)

    return step


def drip_headers(every_s: float = 0.05) -> Step:
    """A header without end, a byte at a time."""

    def step(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        _drip(handler, b"x" * 60_000, every_s)

    return step


def stall(handler: Handler) -> None:
    """No answer at all."""
    handler.faults.stopping.wait(30)
    handler.close_connection = True


def pass_on(address: str) -> Step:
    """What the server at `address` answers."""

    def step(handler: Handler) -> None:
        kept = {k: v for k, v in handler.headers.items() if k.lower() not in ("host", "connection")}
        with contextlib.closing(http.client.HTTPConnection(address.removeprefix("http://"))) as connection:
            connection.request(handler.command, handler.path, handler.sent or None, kept)
            answer = connection.getresponse()
            data = answer.read()
        dropped = ("transfer-encoding", "content-length", "connection")
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in dropped}
        handler.head(answer.status, headers | {"Content-Length": str(len(data))})
        handler.body(data)

    return step


def held(until: threading.Event, answer: Step) -> Step:
    """`answer`, but not before `until` is set."""

    def step(handler: Handler) -> None:
        until.wait(60)
        answer(handler)

    return step


def _drip(handler: Handler, data: bytes, every_s: float) -> None:
    for byte in data:
        if handler.faults.stopping.wait(every_s):
            break
        handler.wfile.write(bytes([byte]))
    handler.close_connection = True


@contextlib.contextmanager
def serve() -> Iterator[FaultServer]:
    """Starts the server on a free port of 127.0.0.1, and ends it."""
    faults = FaultServer()
    with serve_http(Handler, faults=faults) as faults.address:
        try:
            yield faults
        finally:
            faults.stopping.set()
