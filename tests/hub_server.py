"""A stand-in of the Hugging Face Hub: a few models, by the parts of its protocol that downloads use."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.http_servers import QuietHandler, serve_http

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


@contextlib.contextmanager
def hub(models: Mapping[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Serves folders as `ORGANIZATION/NAME`, all at two commits; yields the address and the paths that were asked for.

    A model whose name ends with `gated` is refused as one whose terms were not accepted.
    """
    asked: list[str] = []

    class Handler(QuietHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            asked.append(self.path)
            parts = self.path.partition("?")[0].strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                return self._info("/".join(parts[2:4]), parts[5] if parts[4:5] == ["revision"] else "main", parts[4:])
            return self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))

        def _info(self, name: str, revision: str, rest: list[str]) -> None:
            if not self._found(name, revision):
                return
            files = sorted(path.name for path in models[name].iterdir())
            if rest[:1] == ["tree"]:
                self._answer(200, json.dumps([self._entry(models[name] / file) for file in files]).encode())
                return
            commit = COMMITS.get(revision, revision)
            siblings = [{"rfilename": file} for file in files]
            self._answer(200, json.dumps({"id": name, "modelId": name, "sha": commit, "siblings": siblings}).encode())

        def _entry(self, path: Path) -> dict[str, object]:
            content = path.read_bytes()
            oid = hashlib.sha1(content).hexdigest()
            return {"type": "file", "path": path.name, "size": len(content), "oid": oid}

        def _file(self, name: str, revision: str, file: str) -> None:
            if not self._found(name, revision):
                return
            path = models[name] / file
            if not path.is_file():
                self._answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMITS["main"]})
                return
            content = path.read_bytes()
            headers = {
                "X-Repo-Commit": COMMITS.get(revision, revision),
                "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
            }
            self._answer(200, content, headers)

        def _found(self, name: str, revision: str) -> bool:
            if name.endswith("gated"):
                self._answer(403, b"", {"X-Error-Code": "GatedRepo"})
            elif name not in models:
                self._answer(401, b"", {"X-Error-Code": "RepoNotFound"})
            elif revision not in (*COMMITS, *COMMITS.values()):
                self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            else:
                return True
            return False

        def _answer(self, status: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    with serve_http(Handler) as address:
        yield address, asked
