"""A server that speaks OpenAI's chat completions, with faults as told: `python -m tests.openai_server`.

It prints its port, and looks at the pictures: its captions name their colour and size. What it does is set and what it
was asked is read at `/control`.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from PIL import Image

MODEL = "tiny-vlm"
COLOURS = {"red": (200, 0, 0), "green": (0, 160, 0), "blue": (0, 0, 200)}  # all others are "grey"
PROBE = "grey"  # as which the captioner's own picture counts
USAGE = {"prompt_tokens": 100, "completion_tokens": 10}


@dataclass
class OpenAiServer:
    """A server in a process of its own, as tests see it.

    Attributes:
      port: at 127.0.0.1.
      process: that it runs in.
    """

    port: int
    process: subprocess.Popen[str]

    @property
    def url(self) -> str:
        """The value of --endpoint."""
        return f"http://127.0.0.1:{self.port}/v1"

    def set(self, **state: Any) -> None:
        """Forgets what it was asked, and does as told from now on.

        Args:
          state: `steps`, answers to the next requests in turn; `by_colour`, answers to pictures of a colour; `key`,
            which requests must have; `logprobs`; `usage`, None for none; `delay`, seconds. An answer has some of
            `status`, `headers`, `error`, `body`, `cut`, `drop`, `stall`, `text`, `finish`, `refusal`, `size`.
        """
        self._control("POST", json.dumps(state))

    @property
    def asked(self) -> list[dict[str, Any]]:
        """For each request: `headers` in lower case, `body` without the picture, `colour`, `size`, `side_by_side`."""
        found: list[dict[str, Any]] = json.loads(self._control("GET"))
        return found

    def _control(self, method: str, body: str | None = None) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, "/control", body)
            return connection.getresponse().read()


@contextlib.contextmanager
def serve_openai() -> Iterator[OpenAiServer]:
    """Starts a server; it ends with the block."""
    command = [sys.executable, "-m", "tests.openai_server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield OpenAiServer(int(process.stdout.readline()), process)
        finally:
            process.kill()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    state: ClassVar[dict[str, Any]] = {}
    asked: ClassVar[list[dict[str, Any]]] = []
    under_way = 0
    lock = threading.Lock()

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._send(200, json.dumps(self.asked).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/control":
            with self.lock:
                type(self).state, type(self).asked = body, []
            self._send(200, b"{}")
        elif self.path.partition("?")[0] == "/v1/chat/completions":
            self._complete(body)
        else:
            self._send(404, b'{"detail": "Not Found"}')

    @contextlib.contextmanager
    def _counted(self) -> Iterator[int]:
        with self.lock:
            _Handler.under_way += 1
            count = self.under_way
        try:
            yield count
        finally:
            with self.lock:
                _Handler.under_way -= 1

    def _complete(self, body: dict[str, Any]) -> None:
        with self._counted() as side_by_side:
            step, caption = self._look_at(body, side_by_side)
            time.sleep(self.state.get("delay", 0))
        # It is no longer counted: the client may send the next request as soon as it has the answer.
        with contextlib.suppress(ConnectionError):
            self._answer(step, body, caption)

    def _look_at(self, body: dict[str, Any], side_by_side: int) -> tuple[dict[str, Any], str]:
        """Notes a request; what its answer has, and the picture's caption."""
        image, text = body["messages"][0]["content"]
        url = image["image_url"].pop("url")
        kind, _, data = url.partition(",")
        assert kind == "data:image/jpeg;base64", kind
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert picture.format == "JPEG"
            colour, size = _colour(picture), picture.size
        with self.lock:
            headers = {name.lower(): value for name, value in self.headers.items()}
            entry = {"headers": headers, "body": body, "prompt": text["text"], "colour": colour, "size": size}
            self.asked.append(entry | {"side_by_side": side_by_side, "path": self.path, "bytes": len(data)})
            steps = self.state.get("steps", [])
            step = steps.pop(0) if steps else self.state.get("by_colour", {}).get(colour, {})
        return step, f"a {colour} picture of {size[0]}x{size[1]}"

    def _answer(self, step: dict[str, Any], body: dict[str, Any], caption: str) -> None:
        if step.get("stall"):
            self.rfile.read(1)  # until the client goes away
            return
        key = self.state.get("key")
        sent = self.headers.get("Authorization")
        if key and sent != f"Bearer {key}":
            step = {
                "status": 401,
                "error": {"message": f"Incorrect API key provided: {sent}.", "code": "invalid_api_key"},
            }
        elif body["model"] != MODEL:
            message = f"The model `{body['model']}` does not exist."
            step = {"status": 404, "error": {"message": message, "type": "NotFoundError"}}
        status = step.get("status", 200)
        answer = json.dumps({"error": step["error"]} if "error" in step else self._completion(step, body, caption))
        data = step.get("body", answer).encode() + b" " * step.get("size", 0)
        headers = step.get("headers", {})
        if step.get("drop"):  # a connection that breaks in the middle of the body
            headers |= {"Content-Length": str(len(data) + 1)}
            self.close_connection = True
        self._send(status, data[: step.get("cut", len(data))], headers)

    def _completion(self, step: dict[str, Any], body: dict[str, Any], caption: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": step.get("text", caption), "refusal": step.get("refusal")}
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": step.get("finish", "stop")}
        if body.get("logprobs") and self.state.get("logprobs", True):
            choice["logprobs"] = {"content": [{"token": "a", "logprob": -0.5}, {"token": " red", "logprob": -1.5}]}
        found = {"object": "chat.completion", "model": MODEL, "choices": [choice] * body.get("n", 1)}
        usage = self.state.get("usage", USAGE)
        return found | ({"usage": usage} if usage else {})

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        usual = {"Content-Type": "application/json", "Content-Length": str(len(data))}
        for name, value in (usual | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def _colour(picture: Image.Image) -> str:
    found = picture.convert("RGB").resize((1, 1)).getpixel((0, 0))
    for name, wanted in COLOURS.items():
        if all(abs(one - other) < 20 for one, other in zip(found, wanted, strict=True)):
            return name
    return PROBE


def main() -> None:
    """Serves until it is killed."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
