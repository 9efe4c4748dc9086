"""Errors of Google's client libraries, as StorageError."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from beam_job.storage.base import OPTIONS, CredentialsError, StorageError
from beam_job.storage.responses import is_transient, retry_when_of

LOG_IN = "log in with `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS"
NO_PERMISSION = "grant this permission to the account, or " + LOG_IN.replace("log in", "log in as another", 1)
_REQUEST = re.compile(r"[A-Z]+ https?://\S+: ")  # the client puts this before Google's own message


def requester_pays_hint(message: str) -> str:
    """What to do about a bucket whose requester pays; "" for other messages of Google."""
    missing = "requester pays" in message.lower() or "user project" in message.lower()
    return "; name the project that pays with --billing_project=PROJECT" if missing else ""


@contextlib.contextmanager
def gcs_errors(uri: str) -> Iterator[None]:
    """Turns errors about `uri` within this block into StorageError, and refused credentials into CredentialsError."""
    from google.api_core.exceptions import GoogleAPICallError, GoogleAPIError
    from google.auth.exceptions import GoogleAuthError, TransportError

    try:
        yield
    except GoogleAPICallError as error:
        code: Any = error.code or 0
        message = f"{uri}: {int(code)} {_REQUEST.sub('', error.message or str(error), count=1)}"
        if hint := requester_pays_hint(message):
            raise StorageError(f"{message}{hint}", type(error).__name__, retry_when=OPTIONS) from error
        if code == 401:
            raise CredentialsError(f"{message.rstrip('.')}; {LOG_IN}", type(error).__name__) from error
        if code == 403:
            message = f"{message.rstrip('.')}; {NO_PERMISSION}"
        cause = type(error).__name__
        raise StorageError(message, cause, is_transient(code), retry_when=retry_when_of(code)) from error
    except GoogleAPIError as error:  # the client's own retries of a page timed out
        raise StorageError(f"{uri}: {error}", type(error).__name__, transient=True) from error
    except GoogleAuthError as error:
        reason = " ".join(str(error.args[0] if error.args else error).split())[:300]  # may contain a page of HTML
        if error.retryable or isinstance(error, TransportError):
            raise StorageError(f"{uri}: {reason}", type(error).__name__, transient=True) from error
        raise CredentialsError(f"{uri}: {reason}; {LOG_IN}", type(error).__name__) from error
    except (OSError, EOFError) as error:  # from the connection: requests' errors are OSErrors
        raise StorageError(f"{uri}: {error}", type(error).__name__, transient=True) from error
