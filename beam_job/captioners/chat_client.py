"""Chat completions over HTTP: retries, deadlines, and one-line errors that never contain the key."""

from __future__ import annotations

import contextlib
import http
import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
import urllib3

from beam_job import __version__
from beam_job.captioners.pace import Pace, Stopwatch
from beam_job.inputs.endpoint import Endpoint
from beam_job.storage import StorageError, public_name
from beam_job.storage.connections import keep_deadline, prepared
from beam_job.storage.responses import broken, is_transient, retry_after_of
from beam_job.storage.retry import Deadline, retrying
from beam_job.text import printable

_CONNECT_S = 10.0
_PROBE_S = 60.0
_CHUNK = 1 << 16
_MAX_ANSWER = 4 * 2**20  # bytes
_MAX_DETAIL = 300  # characters of a server's explanation
_OVERLOADED = (429, 503, 529)
_PATIENT = (429, 502, 503, 504, 529)  # also before the run: the server may be starting
_NEVER_PASS = ("insufficient_quota", "billing_hard_limit_reached")  # with status 429
_SHORTEST_SECRET = 8  # characters; shorter keys are dummies, such as "none", and also occur in captions
_KEY = re.compile(r"[!-~]+")


class KeyFormatError(ValueError):
    """The environment variable holds something that is no key; the message does not show it."""


class EndpointError(StorageError):
    """A request failed; the message continues "the endpoint ...".

    Attributes:
      status: the HTTP status, or the one in the answer's error; None where there was no complete answer.
      code: the server's name of the error, "" where it gave none.
      detail: the server's explanation, in one line.
    """

    status: int | None = None
    code: str = ""
    detail: str = ""


class ChatClient:
    """Sends requests to one endpoint; any thread may call it.

    Redirects are not followed, and the key comes from the environment, so it is sent to the endpoint alone.

    Args:
      endpoint: where to, and how.

    Raises:
      KeyFormatError: the environment variable with the key holds no key.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._key = _key_of(endpoint.api_key_env)
        self._pace = Pace(endpoint.concurrency, endpoint.request_timeout)
        self._lock = threading.Lock()  # guards _opened
        self._opened: requests.Session | None = None

    @property
    def has_key(self) -> bool:
        """Whether the environment has a key."""
        return self._key is not None

    def post(self, payload: Mapping[str, Any], on_attempt: Callable[[float], None]) -> dict[str, Any]:
        """The answer to a request, which is repeated after temporary errors until `request_timeout`.

        Args:
          payload: of the request.
          on_attempt: called after each attempt with the seconds that it took.

        Raises:
          EndpointError: there is none.
        """
        watch = Stopwatch()
        body = json.dumps(payload).encode()

        def attempt(deadline: Deadline) -> dict[str, Any]:
            with self._pace.turn(watch):
                started = time.monotonic()
                try:
                    answer = self._attempt(body, deadline)
                except EndpointError as error:
                    if error.status in _OVERLOADED:
                        self._pace.slow_down(started, error.retry_after)
                    raise
                finally:
                    on_attempt(time.monotonic() - started)
            self._pace.succeeded()
            return answer

        return retrying(attempt, self._endpoint.request_timeout, clock=watch.now)

    def probe(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a request that finds out whether the endpoint works, now. Raises as `post`."""
        body = json.dumps(payload).encode()

        def attempt(deadline: Deadline) -> dict[str, Any]:
            try:
                return self._attempt(body, deadline)
            except EndpointError as error:
                error.transient = error.transient and error.status in _PATIENT
                raise

        return retrying(attempt, min(_PROBE_S, self._endpoint.request_timeout))

    def close(self) -> None:
        """Closes the connections; the next request opens new ones."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
            self._opened = None

    def _attempt(self, body: bytes, deadline: Deadline) -> dict[str, Any]:
        seconds = max(min(deadline.left(), self._endpoint.request_timeout / 2), 0.001)
        limit = Deadline.after(seconds)
        with _connection_errors(), keep_deadline(limit, stall=seconds):
            response = self._session().post(
                self._endpoint.completions_url,
                data=body,
                headers=self._headers(),
                stream=True,
                allow_redirects=False,
                timeout=(min(seconds, _CONNECT_S), seconds),
            )
            with contextlib.closing(response):
                data = self._without_key(_read(response))
        return _answer(response, data)

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        return headers | ({"Authorization": f"Bearer {self._key}"} if self._key else {})

    def _without_key(self, data: bytes) -> bytes:
        """An answer without the key, which servers quote when they refuse it."""
        key = (self._key or "").encode()
        return data.replace(key, b"...") if len(key) >= _SHORTEST_SECRET else data

    def _session(self) -> requests.Session:
        with self._lock:
            if self._opened is None:
                session = prepared(requests.Session(), pool_size=self._endpoint.concurrency + 1)
                session.headers["User-Agent"] = f"caption-images/{__version__}"
                session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
                self._opened = session
            return self._opened


def _key_of(variable: str) -> str | None:
    key = os.environ.get(variable, "").strip()
    if key and not _KEY.fullmatch(key):
        raise KeyFormatError(
            f"the environment variable {variable} contains blanks or other characters that a key cannot have"
        )
    return key or None


@contextlib.contextmanager
def _connection_errors() -> Any:
    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError, UnicodeError) as error:
        failure, cause = broken(error, "x")
        reason = str(failure).removeprefix("x: ")
        raise EndpointError(f"did not answer: {reason}", failure.cause, failure.transient) from cause
    except OSError as error:  # a read after the deadline, or REQUESTS_CA_BUNDLE names no file
        is_late = isinstance(error, TimeoutError)
        raise EndpointError(f"did not answer: {error}", type(error).__name__, is_late) from error


def _read(response: requests.Response) -> bytes:
    pieces, size = [], 0
    while piece := response.raw.read1(_CHUNK, decode_content=True):
        size += len(piece)
        if size > _MAX_ANSWER:
            raise EndpointError(f"sent an answer of more than {_MAX_ANSWER:,} bytes", "AnswerTooLong")
        pieces.append(piece)
    return b"".join(pieces)


def _answer(response: requests.Response, data: bytes) -> dict[str, Any]:
    """The chat completion in a response. Raises EndpointError for anything else."""
    parsed: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        parsed = json.loads(data)
    if 300 <= response.status_code < 400:
        target = public_name(response.headers.get("Location", "another place"))
        raise EndpointError(f"redirects to {printable(target)[:_MAX_DETAIL]}, which is not followed", "Redirected")
    if not response.ok:
        raise _refusal(response.status_code, parsed, data, response.headers.get("Retry-After"))
    if isinstance(parsed, dict) and isinstance(parsed.get("choices"), list) and parsed["choices"]:
        return parsed
    if isinstance(parsed, dict) and parsed.get("error"):  # of a server behind the one that has answered
        code = parsed["error"].get("code") if isinstance(parsed["error"], dict) else None
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
        raise _refusal(status, parsed, data, response.headers.get("Retry-After"))
    what = "truncated JSON, or no JSON" if parsed is None else "JSON that is not a chat completion"
    raise EndpointError(f"sent {what}: {_line(data.decode('utf-8', 'replace'))[:80]!r}", "BadAnswer", transient=True)


def _refusal(status: int, parsed: Any, data: bytes, retry_after: str | None) -> EndpointError:
    """The error of an answer with this status."""
    found = parsed.get("error", parsed) if isinstance(parsed, dict) else parsed
    detail, code = found, ""
    if isinstance(found, dict):
        detail = next((found[name] for name in ("message", "detail", "error") if found.get(name)), "")
        code = str(found.get("code") or found.get("type") or "")
    elif found is None and not data.lstrip().startswith(b"<"):  # HTML explains nothing in one line
        detail = data.decode("utf-8", "replace")
    line = _line(detail if isinstance(detail, str) else json.dumps(detail))[:_MAX_DETAIL]
    phrase = ""
    with contextlib.suppress(ValueError):
        phrase = f" {http.HTTPStatus(status).phrase}"
    passes = is_transient(status) and code not in _NEVER_PASS
    error = EndpointError(
        f"answered {status}{phrase}{f': {line}' if line else ''}", f"Http{status}", passes, retry_after_of(retry_after)
    )
    error.status, error.code, error.detail = status, code, line
    return error


def _line(text: str) -> str:
    return printable(" ".join(text[: 4 * _MAX_DETAIL].split()))
