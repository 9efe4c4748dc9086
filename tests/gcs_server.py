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
import datetime
import fnmatch
import hashlib
import json
import re
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import google_crc32c
from gcp_storage_emulator.gcs_glob import gcs_glob_match  # type: ignore[import-untyped]

OPERATIONS = ("list", "get", "download", "insert", "delete", "bucket")


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
