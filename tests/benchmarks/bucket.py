"""A storage emulator with a bucket of photographs behind a proxy that holds back each download, as distance would."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.conftest import emulator


class Proxy(http.server.BaseHTTPRequestHandler):
    """Passes requests on to `target`; a media download after `delay` seconds."""

    protocol_version = "HTTP/1.1"
    target = ""
    delay = 0.0

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def _pass_on(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length) if length else None
        if self.command == "GET" and "alt=media" in self.path:
            time.sleep(self.delay)  # the latency that is measured
        kept = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
        connection = http.client.HTTPConnection(self.target)
        connection.request(self.command, self.path, body, kept)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = _pass_on


@contextlib.contextmanager
def bucket_of(photographs: Iterable[bytes], folder: Path) -> Iterator[str]:
    """Yields the address of an emulator, behind the proxy, that has them as `gs://bucket/photos/00000.jpg` and so on.

    Args:
      photographs: JPEG files.
      folder: for the emulator's log.
    """
    with emulator(folder / "emulator.log") as address:
        Proxy.target = address.removeprefix("http://")
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            _upload(address, photographs)
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()


def _upload(address: str, photographs: Iterable[bytes]) -> None:
    from google.cloud import storage as gcs

    os.environ["STORAGE_EMULATOR_HOST"] = address
    bucket = gcs.Client().create_bucket("bucket")
    for number, photograph in enumerate(photographs):
        bucket.blob(f"photos/{number:05d}.jpg").upload_from_string(photograph)
