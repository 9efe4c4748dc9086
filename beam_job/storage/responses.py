"""Errors of HTTP requests, in one line that shows neither tokens nor the query of a signed URL."""

from __future__ import annotations

import contextlib
import email.utils
import http
import http.client
import json
import re
import socket
import ssl
import time
import urllib.parse
from collections.abc import Iterator

import requests
import urllib3

from beam_job.storage.base import CONTENT, LATER, OPTIONS, StorageError

_DETAIL_BYTES = 2048
_AUTHORITY = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)")
WEB = ("http", "https")
_REFUSED = (401, 403, 407)
# In the names of objects `?` is an ordinary character, or a wildcard; a query like this one may be a signature.
_QUERY = re.compile(r"\?[^/?]*=.*", re.DOTALL)
_SHORTEST_SECRET = 6  # characters; shorter ones would also occur in other words of a message


class DownloadError(StorageError):
    """A request failed.

    Attributes:
      status: the HTTP status if there was an answer.
      detail: the server's explanation in one line, if it sent JSON or plain text.
      unknown_host: the name service does not know the host.
    """

    status: int | None = None
    detail: str = ""
    unknown_host: bool = False


def is_transient(status: int) -> bool:
    """Whether a request that got this HTTP status may succeed later: 408, 429 and 5xx."""
    return status in (408, 429) or status >= 500


def retry_when_of(status: int) -> str:
    """When another run should try again after this HTTP status: see `StorageError.retry_when`.

    401, 403 and 407 need other credentials or permissions. All others may pass, 404 and 410 among them: the file was
    not read, and servers say so of files that come back.
    """
    return OPTIONS if status in _REFUSED else LATER


def public_name(uri: str) -> str:
    """The URI for messages and stored files: without the password, and without a query, which may be a signature.

    Web addresses also lose their user and fragment. Local paths are returned as they are.
    """
    match = _AUTHORITY.match(uri)
    if match is None or (match[1].lower() == "file" and not match[2]):
        return uri
    user, _, host = match[2].rpartition("@")
    rest = uri[match.end() :]
    if match[1].lower() in WEB:
        return f"{match[1]}://{host}{re.split('[?#]', rest, maxsplit=1)[0]}"
    return f"{match[1]}://{host if ':' in user else match[2]}{_QUERY.sub('', rest)}"


def without_secrets(text: str, uri: str) -> str:
    """`text` without the parts that `public_name` removes from `uri`, as part of the URI or alone."""
    public = public_name(uri)
    if public == uri:
        return text
    text = text.replace(uri, public)
    for secret in sorted(_secrets(uri), key=len, reverse=True):
        text = text.replace(secret, "...")
    return text


def _secrets(uri: str) -> Iterator[str]:
    """User, password and the values of the query, as written and decoded."""
    head, _, query = uri.partition("?")
    match = _AUTHORITY.match(head)
    user = match[2].rpartition("@")[0] if match else ""
    values = [*user.split(":", 1), query, *(part.rpartition("=")[2] for part in re.split("[&;#]", query))]
    for value in values:
        for spelling in {value, urllib.parse.unquote(value)}:
            if len(spelling) >= _SHORTEST_SECRET:
                yield spelling


def status_error(response: requests.Response, name: str) -> DownloadError:
    """The error of an answer other than 200; `cause` is the status's name, `NotFound` for 404."""
    status = response.status_code
    phrase = ""
    with contextlib.suppress(ValueError):
        phrase = http.HTTPStatus(status).phrase
    cause = "".join(word[:1].upper() + word[1:] for word in phrase.replace("-", " ").split()) or f"Http{status}"
    transient = is_transient(status)
    error = DownloadError(
        f"{name}: {status} {phrase}".rstrip(),
        cause,
        transient,
        retry_after_of(response.headers.get("Retry-After")),
        retry_when_of(status),
    )
    error.status = status
    error.detail = _detail(response)
    return error


def broken(error: Exception, name: str) -> tuple[DownloadError, BaseException]:
    """The error of a request without a complete answer, and the exception that requests and urllib3 have wrapped.

    The wrappers' messages show the URL with its query, so they are left out of the chain. Invalid URLs and certificates
    that do not verify are not tried again in the same run.
    """
    root: BaseException = error
    seen = {id(root)}  # an exception that was raised twice may be in a circle of contexts
    while isinstance(root, (requests.RequestException, urllib3.exceptions.HTTPError)):
        below = root.__cause__ or root.__context__
        if below is None or id(below) in seen or isinstance(root, http.client.HTTPException):
            break
        root = below
        seen.add(id(root))
    certificate = isinstance(root, ssl.SSLCertVerificationError)
    invalid = not certificate and (isinstance(error, ValueError) or isinstance(root, ValueError))
    if isinstance(error, ValueError):  # its text is the URL
        reason = "not a URL that can be fetched"
    else:
        reason = " ".join(str(getattr(root, "strerror", None) or root).split())
    failure = DownloadError(
        f"{name}: {reason} ({type(root).__name__})",
        type(root).__name__,
        transient=not (certificate or invalid),
        retry_when=CONTENT if invalid else LATER,
    )
    failure.unknown_host = isinstance(root, socket.gaierror) and root.errno == socket.EAI_NONAME
    return failure, root


def retry_after_of(header: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date; None for anything else."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    with contextlib.suppress(ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    return None


def _detail(response: requests.Response) -> str:
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind not in ("application/json", "text/plain"):
        return ""
    text = b""
    with contextlib.suppress(requests.RequestException, urllib3.exceptions.HTTPError):
        while len(text) < _DETAIL_BYTES and (chunk := response.raw.read1(_DETAIL_BYTES, decode_content=True)):
            text += chunk
    message = text.decode("utf-8", "replace")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        message = str(json.loads(message)["error"]["message"])
    return " ".join(message.split())[:300]
