"""A stand-in for Dataflow's jobs service: it takes a job over HTTP, runs what was staged, and tells its state.

A job's graph is fetched from the bucket to which Beam staged it, and run by Beam's in-process runner in this process;
so the captions that a launcher finds are those of the pipeline that it submitted.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import traceback
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from beam_job.storage import storage_for

JOB_ID = "2026-11-23_job"
_JOB = re.compile(rf"/v1b3/projects/p/locations/us-central1/jobs/{JOB_ID}(?:/(\w+))?")


class DataflowService:
    """What one test's service does and has seen: a job runs to its end, or says why not, before it is polled.

    Args:
      refuse: status, and message, of its answer to a job.
      messages: what the job says of itself.
      end: the state in which it ends, and nothing is run; None to run it.
    """

    def __init__(
        self, refuse: tuple[int, str] | None = None, end: str | None = None, messages: Sequence[tuple[str, str]] = ()
    ) -> None:
        self.refuse = refuse
        self.end = end
        self.messages = list(messages)
        self.jobs: list[dict[str, Any]] = []

    def create(self, job: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.jobs.append(job)
        if self.refuse:
            status, message = self.refuse
            return status, {"error": {"code": status, "message": message}}
        self.end = self.end or self._run(job)
        return 200, self._told("JOB_STATE_RUNNING") | {"clientRequestId": job["clientRequestId"]}

    def _run(self, job: dict[str, Any]) -> str:
        try:
            run_staged(job)
        except Exception:
            self.messages.append(("JOB_MESSAGE_ERROR", traceback.format_exc()))
            return "JOB_STATE_FAILED"
        return "JOB_STATE_DONE"

    def get(self, what: str | None) -> dict[str, Any]:
        if what == "messages":
            return {
                "jobMessages": [
                    {"id": str(n), "time": "2026-11-23T00:00:00Z", "messageText": text, "messageImportance": importance}
                    for n, (importance, text) in enumerate(self.messages)
                ]
            }
        return {"metrics": []} if what == "metrics" else self._told(str(self.end))

    def _told(self, state: str) -> dict[str, Any]:
        return {"id": JOB_ID, "name": self.jobs[-1]["name"], "currentState": state}


def run_staged(job: dict[str, Any]) -> None:
    """Runs the graph that a job names, without the containers that it asks for."""
    url = job["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"]
    graph = beam_runner_api_pb2.Pipeline.FromString(storage_for(url).read(url)[0])
    for environment in graph.components.environments.values():
        environment.urn = python_urns.EMBEDDED_PYTHON
        environment.payload = b""
        del environment.dependencies[:]
    FnApiRunner().run_via_runner_api(graph, PipelineOptions([]))


def private_key() -> str:
    """The key of a service account that does not exist; one is enough for a whole module."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*form).decode()


def log_in(folder: Path, key: str, address: str) -> dict[str, str]:
    """The environment of somebody whom the service at `address` lets in; without one Beam looks for 20 s."""
    account = {"type": "service_account", "client_email": "t@p.iam.gserviceaccount.com", "private_key": key}
    (folder / "key.json").write_text(json.dumps(account | {"token_uri": f"{address}/token", "project_id": "p"}))
    return {"GOOGLE_APPLICATION_CREDENTIALS": str(folder / "key.json")}


@contextlib.contextmanager
def serving(service: DataflowService) -> Iterator[str]:
    """Serves it on localhost, which Beam takes for an endpoint of plain HTTP; yields the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/token":
                self._answer(200, {"access_token": "t", "expires_in": 3600, "token_type": "Bearer"})
            else:
                self._answer(*service.create(json.loads(body)))

        def do_GET(self) -> None:
            match = _JOB.match(self.path)
            assert match is not None
            self._answer(200, service.get(match.group(1)))

        def _answer(self, status: int, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("localhost", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
