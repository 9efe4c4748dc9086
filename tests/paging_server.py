"""A local bucket that is listed page by page, as by Google's JSON API; it holds names and no content."""

from __future__ import annotations

import bisect
import contextlib
import json
import re
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from gcp_storage_emulator.gcs_glob import gcs_glob_match

from tests.http_servers import QuietHandler, serve_http

Query = dict[str, str]


@dataclass
class PagingServer:
    """Answers `/storage/v1/b/BUCKET/o`, whatever the bucket.

    With `matchGlob` a page has the matches among `page_size` names, so it may be empty although more follow.

    Attributes:
      names: of the objects, in their order.
      page_size: entries of a page at most.
      latency_s: seconds before each answer.
      address: `http://127.0.0.1:PORT`.
      asked: the parameters of each request.
      refuse: an HTTP status for a request, or None to answer it.
    """

    names: Sequence[str]
    page_size: int = 1000
    latency_s: float = 0.0
    address: str = ""
    asked: list[Query] = field(default_factory=list)
    refuse: Callable[[Query], int | None] = lambda query: None

    def answer(self, query: Query) -> tuple[int, dict[str, object]]:
        """Status and JSON."""
        self.asked.append(query)
        time.sleep(self.latency_s)
        status = self.refuse(query)
        return (status, {"error": {"message": "refused"}}) if status else (200, self._page(query))

    def _page(self, query: Query) -> dict[str, object]:
        prefix, end = query.get("prefix", ""), query.get("endOffset")
        at = int(query.get("pageToken") or bisect.bisect_left(self.names, max(prefix, query.get("startOffset", ""))))
        page_size = min(self.page_size, int(query.get("maxResults", self.page_size)))
        names: list[str] = []
        while at < len(self.names) and (name := self.names[at]).startswith(prefix) and (end is None or name < end):
            if len(names) == page_size:
                return self._answer(query, names) | {"nextPageToken": str(at)}
            names.append(name)
            at += 1
        return self._answer(query, names)

    def _answer(self, query: Query, names: Sequence[str]) -> dict[str, object]:
        wanted = re.search(r"items\(([^)]*)\)", query.get("fields", f"items({','.join(item_of(''))})"))
        if "matchGlob" in query:
            names = [name for name in names if gcs_glob_match(query["matchGlob"], name)]
        if not (wanted and names):
            return {}
        fields = wanted[1].split(",")
        return {"items": [{key: value for key, value in item_of(name).items() if key in fields} for name in names]}


def item_of(name: str) -> dict[str, str]:
    """The fields of the object resource that requests may ask for."""
    return {
        "name": name,
        "generation": "1700000000000001",
        "size": "100000",
        "crc32c": "4waSgw==",
        "contentType": "image/jpeg",
        "md5Hash": "AAAAAAAAAAAAAAAAAAAAAA==",
    }


class Handler(QuietHandler):
    """One connection."""

    paging: PagingServer

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        # The client also asks for the bucket itself now and then, and works without an answer.
        status, answer = self.paging.answer(query) if url.path.endswith("/o") else (404, {})
        data = json.dumps(answer).encode()
        with contextlib.suppress(ConnectionError):
            self.send_response_only(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)


@contextlib.contextmanager
def serve_pages(names: Sequence[str], page_size: int = 1000, latency_s: float = 0.0) -> Iterator[PagingServer]:
    """Starts the server on a free port of 127.0.0.1, and ends it."""
    paging = PagingServer(sorted(names), page_size, latency_s)
    with serve_http(Handler, paging=paging) as paging.address:
        yield paging
