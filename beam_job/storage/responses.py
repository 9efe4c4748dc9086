"""What went wrong with an HTTP request, in one line that shows neither tokens nor the query of a signed URL."""

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

from beam_job.storage.base import StorageError

_DETAIL_BYTES = 2048
_AUTHORITY = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)")
WEB = ("http", "https")
# In the names of objects `?` is a character like others, or a wildcard; this is somebody's signature.
_QUERY = re.compile(r"\?[^/?]*=.*", re.DOTALL)
_SHORTEST_SECRET = 6  # characters; what is shorter would hit other words of a message


class DownloadError(StorageError):
    """A request failed.

    Attributes:
      status: the HTTP status if there was an answer.
      detail: what the server said about it, one line, where it speaks JSON or plain text.
      unknown_host: the name service does not know the host.
    """

    status: int | None = None
    detail: str = ""
    unknown_host: bool = False


def is_transient(status: int) -> bool:
    """Whether a request that got this HTTP status may succeed later: 408, 429 and 5xx."""
    return status in (408, 429) or status >= 500


def public_name(uri: str) -> str:
    """The URI for messages and notes: without password, and without the query that may be a signature.

    A web address loses user and fragment as well. Local paths stay as they are.
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
    """`text` without what `public_name` takes from `uri`, be it the URI as a whole or a value out of it."""
    public = public_name(uri)
    if public == uri:
        return text
    text = text.replace(uri, public)
    for secret in sorted(_secrets(uri), key=len, reverse=True):
        text = text.replace(secret, "...")
    return text


def _secrets(uri: str) -> Iterator[str]:
    """User, password and the query's values, as written and decoded."""
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
        f"{name}: {status} {phrase}".rstrip(), cause, transient, _retry_after(response.headers.get("Retry-After"))
    )
    error.status = status
    error.detail = _detail(response)
    return error


def broken(error: Exception, name: str) -> tuple[DownloadError, BaseException]:
    """The error of a request that was not answered in full, and what is below the wrappers of requests and urllib3.

    Those wrappers' messages show the URL with its query, so they are left out of the chain. A certificate that does not
    verify and a URL that is none stay so and are permanent.
    """
    root: BaseException = error
    while isinstance(root, (requests.RequestException, urllib3.exceptions.HTTPError)):
        below = root.__cause__ or root.__context__
        if below is None or isinstance(root, http.client.HTTPException):
            break
        root = below
    permanent = isinstance(error, ValueError) or isinstance(root, (ValueError, ssl.SSLCertVerificationError))
    if isinstance(error, ValueError):  # its text is the URL
        reason = "not a URL that can be fetched"
    else:
        reason = " ".join(str(getattr(root, "strerror", None) or root).split())
    failure = DownloadError(f"{name}: {reason} ({type(root).__name__})", type(root).__name__, not permanent)
    failure.unknown_host = isinstance(root, socket.gaierror) and root.errno == socket.EAI_NONAME
    return failure, root


def _retry_after(header: str | None) -> float | None:
    """Seconds of a Retry-After header, which gives seconds or a date; None for neither."""
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
