"""What the tests' servers share: connections whose end is no error, and the thread that serves them."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class QuietHandler(BaseHTTPRequestHandler):
    """One connection. The client may end it at any moment, and nothing is logged: the tests' output is pytest's."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def drop(self) -> None:
        """Ends the connection with a reset."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def log_message(self, *args: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def serve_http(handler: type[QuietHandler], **attributes: object) -> Iterator[str]:
    """Serves on a free port of 127.0.0.1 until the block ends.

    Args:
      handler: of the connections.
      attributes: what the handler has in this server, such as the server's state.

    Yields:
      The address, `http://127.0.0.1:PORT`; other processes may use it.
    """
    bound = type("BoundHandler", (handler,), attributes)
    with ThreadingHTTPServer(("127.0.0.1", 0), bound) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
