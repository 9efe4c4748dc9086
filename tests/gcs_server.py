"""A small server for the JSON API of Google Cloud Storage that honours `ifGenerationMatch` and fails on request.

The emulator of PyPI ignores preconditions, so whatever depends on exclusive creation is tested against this one:

    def test_something(gcs_server: GcsServer) -> None:  # fixture in conftest.py, with a bucket named "bucket"
        gcs_server.fail("insert", "*/lease-*", status=503, applied=True, times=1)
        storage_for("gs://bucket/x").create("gs://bucket/x", b"content")

It knows objects (list, get, media, multipart and resumable insert, delete), buckets and `testIamPermissions`. Listing
is strongly consistent, as Google's is.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import fnmatch
import hashlib
import json
import re
import socket
import struct
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import google_crc32c
from gcp_storage_emulator.gcs_glob import gcs_glob_match  # type: ignore[import-untyped]

OPERATIONS = ("list", "get", "download", "insert", "delete", "bucket")
_PATH = re.compile(
    r"^(?P<kind>/upload|/download|)/storage/v1/b(?:/(?P<bucket>[^/]+))?(?P<objects>/o)?(?:/(?P<name>.*))?$"
)


@dataclass(frozen=True)
class StoredBlob:
    """One generation of an object; times are seconds of the server's clock."""

    data: bytes
    generation: int
    updated: float
    content_type: str = "application/octet-stream"
    content_encoding: str = ""


@dataclass(frozen=True)
class Request:
    """What was asked for: one of `OPERATIONS`, the bucket, the object's name or the listing's prefix, the query."""

    operation: str
    bucket: str
    name: str
    query: dict[str, str]


@dataclass
class Fault:
    """What goes wrong with requests; see `GcsServer.fail`."""

    operation: str
    pattern: str
    status: int | None
    applied: bool
    times: int | None
    until: threading.Event | None

    def matches(self, request: Request) -> bool:
        """Whether the request is one of those, and the fault not used up."""
        return self.times != 0 and request.operation == self.operation and fnmatch.fnmatch(request.name, self.pattern)


@dataclass
class Answer:
    """An answer before it is sent."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class GcsError(Exception):
    """An answer with an error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class GcsServer:
    """The state of the server; tests may read and change it, holding `lock` where requests may be under way.

    Attributes:
      address: `http://127.0.0.1:PORT`, for `STORAGE_EMULATOR_HOST`.
      buckets: objects by bucket and name.
      page_size: entries of a page of a listing at most.
      clock: seconds since the epoch; a test may shift it.
      requests: all that came, in their order.
      lock: guards all of this.
    """

    address: str = ""
    buckets: dict[str, dict[str, StoredBlob]] = field(default_factory=dict)
    page_size: int = 1000
    clock: Callable[[], float] = time.time
    requests: list[Request] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)
    _faults: list[Fault] = field(default_factory=list)
    _uploads: dict[str, tuple[Request, dict[str, Any], bytearray]] = field(default_factory=dict)
    _generation: int = 1_700_000_000_000_000

    def fail(
        self,
        operation: str,
        pattern: str = "*",
        *,
        status: int | None = 503,
        applied: bool = False,
        times: int | None = None,
        until: threading.Event | None = None,
    ) -> None:
        """Lets requests fail; of several faults that match the earliest is taken.

        Args:
          operation: one of `OPERATIONS`.
          pattern: of objects' names (of the prefix for "list"), as `fnmatch` reads it.
          status: the answer; None: the connection is reset without an answer; 200: the true answer (see `until`).
          applied: whether the request takes effect before it fails: its answer is lost, or 503 follows a success.
          times: how many requests; None: all.
          until: the requests wait for this event before they take effect, 60 s at most.
        """
        if operation not in OPERATIONS:
            raise ValueError(f"operation must be one of {', '.join(OPERATIONS)}, not {operation!r}")
        with self.lock:
            self._faults.append(Fault(operation, pattern, status, applied, times, until))

    def recover(self) -> None:
        """Ends all faults."""
        with self.lock:
            self._faults.clear()

    def names(self, bucket: str = "bucket", prefix: str = "") -> list[str]:
        """The names of the objects below a prefix, in their order."""
        with self.lock:
            return sorted(name for name in self.buckets[bucket] if name.startswith(prefix))

    def data(self, name: str, bucket: str = "bucket") -> bytes:
        """The content of an object; KeyError where there is none."""
        with self.lock:
            return self.buckets[bucket][name].data

    def put(self, name: str, data: bytes, bucket: str = "bucket", content_encoding: str = "") -> StoredBlob:
        """Stores an object, replacing the one of that name."""
        with self.lock:
            self._generation += 1
            blob = StoredBlob(data, self._generation, self.clock(), content_encoding=content_encoding)
            self.buckets[bucket][name] = blob
            return blob

    def count(self, operation: str, pattern: str = "*") -> int:
        """How many such requests came."""
        with self.lock:
            return sum(r.operation == operation and fnmatch.fnmatch(r.name, pattern) for r in self.requests)

    def take_fault(self, request: Request) -> Fault | None:
        """Notes a request; the fault that it meets, used up by one."""
        with self.lock:
            self.requests.append(request)
            fault = next((fault for fault in self._faults if fault.matches(request)), None)
            if fault is not None and fault.times is not None:
                fault.times -= 1
            return fault

    def objects(self, bucket: str) -> dict[str, StoredBlob]:
        """Those of a bucket; 404 where there is no such bucket."""
        if bucket not in self.buckets:
            raise GcsError(404, "The specified bucket does not exist.")
        return self.buckets[bucket]

    def find(self, request: Request) -> StoredBlob:
        """The object, in the generation asked for; 404 where it is not there."""
        blob = self.objects(request.bucket).get(request.name)
        wanted = request.query.get("generation")
        if blob is None or (wanted and wanted != str(blob.generation)):
            raise GcsError(404, f"No such object: {request.bucket}/{request.name}")
        return blob

    def check_preconditions(self, request: Request) -> None:
        """412 where the object's generation is not the one expected; 0 expects none."""
        blob = self.objects(request.bucket).get(request.name)
        found = blob.generation if blob is not None else 0
        match, not_match = request.query.get("ifGenerationMatch"), request.query.get("ifGenerationNotMatch")
        if (match is not None and int(match) != found) or (not_match is not None and int(not_match) == found):
            raise GcsError(412, "At least one of the pre-conditions you specified did not hold.")

    def insert(self, request: Request, metadata: dict[str, Any], data: bytes) -> Answer:
        """Stores an upload that has come whole."""
        self.check_preconditions(request)
        if metadata.get("crc32c", crc32c(data)) != crc32c(data):
            raise GcsError(400, "Provided CRC32C does not match the calculated one.")
        blob = self.put(request.name, data, request.bucket, metadata.get("contentEncoding", ""))
        return as_json(resource(request.bucket, request.name, blob))

    def delete(self, request: Request) -> Answer:
        """Removes an object."""
        self.find(request)
        self.check_preconditions(request)
        del self.buckets[request.bucket][request.name]
        return Answer(204)

    def list(self, request: Request) -> Answer:
        """One page of a listing, in the order of the names' UTF-8."""
        query, prefix = request.query, request.query.get("prefix", "")
        items: list[dict[str, Any]] = []
        prefixes: list[str] = []
        size = min(self.page_size, int(query.get("maxResults", self.page_size)))
        answer: dict[str, Any] = {"kind": "storage#objects"}
        for name, blob in sorted(self.objects(request.bucket).items(), key=lambda entry: entry[0].encode()):
            if not self._listed(name, prefix, query):
                continue
            head, slash, _ = name[len(prefix) :].partition(query.get("delimiter") or "\0")
            folder = prefix + head + slash if slash else ""
            if folder and folder in prefixes:
                continue
            if len(items) + len(prefixes) == size:
                answer["nextPageToken"] = base64.urlsafe_b64encode(name.encode()).decode()
                break
            if folder:
                prefixes.append(folder)
            else:
                items.append(resource(request.bucket, name, blob))
        answer |= ({"items": items} if items else {}) | ({"prefixes": prefixes} if prefixes else {})
        return as_json(answer)

    def _listed(self, name: str, prefix: str, query: dict[str, str]) -> bool:
        token = base64.urlsafe_b64decode(query.get("pageToken", "")).decode()
        start, end = max(query.get("startOffset", ""), token), query.get("endOffset")
        inside = name.startswith(prefix) and name >= start and (end is None or name < end)
        return inside and ("matchGlob" not in query or bool(gcs_glob_match(query["matchGlob"], name)))

    def start_upload(self, request: Request, metadata: dict[str, Any]) -> Answer:
        """A resumable upload; its content comes with PUT."""
        self.check_preconditions(request)
        upload = uuid.uuid4().hex
        self._uploads[upload] = (request, metadata, bytearray())
        place = f"{self.address}/upload/storage/v1/b/{request.bucket}/o?uploadType=resumable&upload_id={upload}"
        return Answer(200, headers={"Location": place})

    def continue_upload(self, upload: str, content_range: str, data: bytes) -> Answer:
        """A part of a resumable upload, or the question how much has come (`bytes */*`)."""
        if upload not in self._uploads:
            raise GcsError(404, "No such upload")
        request, metadata, received = self._uploads[upload]
        start, _, total = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", content_range).groups()  # type: ignore[union-attr]
        if start is not None:
            received[int(start) :] = data
        if total != "*" and len(received) == int(total):
            return self.insert(request, metadata, bytes(received))
        return Answer(308, headers={"Range": f"bytes=0-{len(received) - 1}"} if received else {})

    def uploaded_name(self, upload: str) -> tuple[str, str]:
        """Bucket and name of a resumable upload."""
        with self.lock:
            request = self._uploads[upload][0] if upload in self._uploads else Request("insert", "", "", {})
            return request.bucket, request.name


def crc32c(data: bytes) -> str:
    """The checksum as Google writes it."""
    return base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()


def resource(bucket: str, name: str, blob: StoredBlob) -> dict[str, Any]:
    """The object resource of the API."""
    time_text = datetime.datetime.fromtimestamp(blob.updated, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    encoding = {"contentEncoding": blob.content_encoding} if blob.content_encoding else {}
    return encoding | {
        "kind": "storage#object",
        "id": f"{bucket}/{name}/{blob.generation}",
        "name": name,
        "bucket": bucket,
        "generation": str(blob.generation),
        "metageneration": "1",
        "contentType": blob.content_type,
        "size": str(len(blob.data)),
        "md5Hash": base64.b64encode(hashlib.md5(blob.data).digest()).decode(),
        "crc32c": crc32c(blob.data),
        "etag": f"E{blob.generation}",
        "timeCreated": time_text,
        "updated": time_text,
    }


def as_json(content: object, status: int = 200) -> Answer:
    """An answer with a JSON body."""
    return Answer(status, json.dumps(content).encode(), {"Content-Type": "application/json; charset=UTF-8"})


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    gcs: GcsServer

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = _PATH.fullmatch(url.path)
        try:
            if path is None:
                raise GcsError(404, "Not Found")
            answer = self._answer(self._request(path, query, body), body)
        except GcsError as error:
            message = {"code": error.status, "message": str(error), "errors": [{"message": str(error)}]}
            answer = as_json({"error": message}, error.status)
        if answer is None:
            self._drop()
        else:
            self._send(answer)

    do_POST = do_PUT = do_DELETE = do_PATCH = do_GET

    def _request(self, path: re.Match[str], query: dict[str, str], body: bytes) -> Request:
        bucket, name = (urllib.parse.unquote(path[part] or "") for part in ("bucket", "name"))
        if not path["objects"]:
            return Request("bucket", bucket, name, query)
        if path["kind"] == "/upload":
            if "upload_id" in query:
                bucket, name = self.gcs.uploaded_name(query["upload_id"])
            else:
                name = query.get("name") or self._metadata(body)["name"]
            return Request("insert", bucket, name, query)
        if self.command == "DELETE":
            return Request("delete", bucket, name, query)
        if not name:
            return Request("list", bucket, query.get("prefix", ""), query)
        return Request("download" if query.get("alt") == "media" else "get", bucket, name, query)

    def _answer(self, request: Request, body: bytes) -> Answer | None:
        fault = self.gcs.take_fault(request)
        if fault is not None and fault.until is not None:
            fault.until.wait(60)
        if fault is None or fault.status == 200:
            return self._apply(request, body)
        if fault.applied:
            self._apply(request, body)
        if fault.status is None:
            return None
        raise GcsError(fault.status, "This is a fault of the test.")

    def _apply(self, request: Request, body: bytes) -> Answer:
        with self.gcs.lock:
            match request.operation:
                case "bucket":
                    return self._bucket(request, body)
                case "list":
                    return self.gcs.list(request)
                case "delete":
                    return self.gcs.delete(request)
                case "get":
                    return as_json(resource(request.bucket, request.name, self.gcs.find(request)))
                case "download":
                    return self._media(self.gcs.find(request))
                case _:
                    return self._insert(request, body)

    def _bucket(self, request: Request, body: bytes) -> Answer:
        bucket = request.bucket
        if self.command == "POST" and not bucket:
            bucket = json.loads(body)["name"]
            self.gcs.buckets.setdefault(bucket, {})
        self.gcs.objects(bucket)
        if request.name == "iam/testPermissions":
            asked = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query).get("permissions", [])
            return as_json({"kind": "storage#testIamPermissionsResponse", "permissions": asked})
        return as_json({"kind": "storage#bucket", "id": bucket, "name": bucket, "location": "US"})

    def _insert(self, request: Request, body: bytes) -> Answer:
        kind = request.query.get("uploadType")
        if "upload_id" in request.query:
            return self.gcs.continue_upload(request.query["upload_id"], self.headers["Content-Range"], body)
        if kind == "resumable":
            return self.gcs.start_upload(request, self._metadata(body))
        if kind == "multipart":
            return self.gcs.insert(request, self._metadata(body), self._parts(body)[1])
        return self.gcs.insert(request, {}, body)

    def _metadata(self, body: bytes) -> dict[str, Any]:
        if self.headers.get_content_type() == "multipart/related":
            body = self._parts(body)[0]
        return dict(json.loads(body or b"{}"))

    def _parts(self, body: bytes) -> list[bytes]:
        """The bodies of a multipart upload's parts."""
        boundary = b"--" + str(self.headers.get_param("boundary")).strip("\"'").encode()
        parts = body.split(boundary)[1:-1]
        return [part.removeprefix(b"\r\n").partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in parts]

    def _media(self, blob: StoredBlob) -> Answer:
        headers = {
            "Content-Type": blob.content_type,
            "x-goog-generation": str(blob.generation),
            "x-goog-hash": f"crc32c={crc32c(blob.data)}",
        }
        if blob.content_encoding:
            headers["Content-Encoding"] = blob.content_encoding
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted is None:
            return Answer(200, blob.data, headers)
        part = blob.data[int(wanted[1]) : int(wanted[2]) + 1]
        headers["Content-Range"] = f"bytes {wanted[1]}-{int(wanted[1]) + len(part) - 1}/{len(blob.data)}"
        return Answer(206, part, headers)

    def _send(self, answer: Answer) -> None:
        with contextlib.suppress(ConnectionError):
            self.send_response(answer.status)  # with a Date header
            for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

    def _drop(self) -> None:
        """Ends the connection with a reset."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(self.gcs.clock() if timestamp is None else timestamp)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def log_message(self, *args: object) -> None:
        """Nothing: the tests' output is pytest's."""


@contextlib.contextmanager
def serve_gcs(*buckets: str) -> Iterator[GcsServer]:
    """Starts the server with empty buckets on a free port of 127.0.0.1, and ends it. Other processes may use it."""
    handler = type("BoundHandler", (Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        gcs = GcsServer(f"http://127.0.0.1:{server.server_port}", {bucket: {} for bucket in buckets})
        handler.gcs = gcs  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield gcs
        finally:
            server.shutdown()
            thread.join()
