"""The protocol of `GcsServer`: requests of Google's JSON API, and their answers over HTTP."""

from __future__ import annotations

import contextlib
import json
import re
import urllib.parse
from collections.abc import Iterator
from typing import Any

from tests.gcs_server import Answer, GcsError, GcsServer, Request, StoredBlob, as_json, crc32c, resource
from tests.http_servers import QuietHandler, serve_http

_PATH = re.compile(
    r"^(?P<kind>/upload|/download|)/storage/v1/b(?:/(?P<bucket>[^/]+))?(?P<objects>/o)?(?:/(?P<name>.*))?$"
)


class Handler(QuietHandler):
    """One connection."""

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
            self.drop()
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

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(self.gcs.clock() if timestamp is None else timestamp)


@contextlib.contextmanager
def serve_gcs(*buckets: str) -> Iterator[GcsServer]:
    """Starts the server with empty buckets on a free port of 127.0.0.1, and ends it. Other processes may use it."""
    gcs = GcsServer(buckets={bucket: {} for bucket in buckets})
    with serve_http(Handler, gcs=gcs) as gcs.address:
        yield gcs
