"""Local files and Google Cloud Storage behind one small interface: list, read, write atomically, create once.

Paths are URIs: a local path, `file://` or `gs://`. Storage clients live here and nowhere else.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import os
import re
import urllib.parse
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

if TYPE_CHECKING:
    from google.cloud import storage as gcs

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_WILDCARD = re.compile(r"[*?\[]")
SCHEMES = ("file", "gs")


class StorageError(Exception):
    """A file or object could not be read, listed or written; the message names it.

    Attributes:
      cause: name of the exception that the system or the client raised.
      transient: whether trying again may help.
    """

    def __init__(self, message: str, cause: str = "", transient: bool = False) -> None:
        super().__init__(message)
        self.cause = cause or type(self).__name__
        self.transient = transient


class UnknownSchemeError(StorageError):
    """A URI of a scheme that this version does not read."""


@dataclass(frozen=True)
class StoredObject:
    """A file or object as listed.

    Attributes:
      uri: its name.
      version: a file's size and mtime in nanoseconds, an object's generation; another content has another version.
    """

    uri: str
    version: str


class Storage(Protocol):
    """What the job asks of a place where files lie."""

    def list(self, uri: str) -> Iterator[StoredObject]:
        """All files below a folder, or matching a glob, or the one file of that name; nothing where nothing is."""

    def is_folder(self, uri: str) -> bool:
        """Whether `uri` names a folder (a prefix of objects)."""

    def read(self, uri: str, version: str | None = None) -> tuple[bytes, str]:
        """The content and its version; that of `version` alone where the storage keeps versions."""

    def open(self, uri: str) -> BinaryIO:
        """A seekable file, for reading parts of it."""

    def exists(self, uri: str) -> bool:
        """Whether a file of that name is there."""

    def write(self, uri: str, data: bytes) -> None:
        """Replaces the file as a whole: readers see the old content or the new."""

    def create(self, uri: str, data: bytes) -> bool:
        """Writes the file where there is none, as a whole; False, and no change, where there is one."""


def scheme_of(uri: str) -> str:
    """`gs` of `gs://bucket/name`; `file` for a path without a scheme."""
    match = _SCHEME.match(uri)
    return match.group(1).lower() if match else "file"


def storage_for(uri: str) -> Storage:
    """The storage that `uri` lies in, one client a process. Raises UnknownSchemeError."""
    scheme = scheme_of(uri)
    if scheme not in SCHEMES:
        raise UnknownSchemeError(f"{uri}: unknown scheme {scheme}://; use a local path, file:// or gs://")
    return _storage(scheme)


@functools.cache
def _storage(scheme: str) -> Storage:
    return GoogleCloudStorage() if scheme == "gs" else LocalStorage()


def join(folder: str, *names: str) -> str:
    """A name below a folder, local or remote."""
    return "/".join((folder.rstrip("/") or "/", *names))


def is_glob(uri: str) -> bool:
    """Whether `uri` has one of the wildcards `*`, `?` and `[`."""
    return _WILDCARD.search(uri) is not None


class LocalStorage:
    """Files of this machine."""

    def list(self, uri: str) -> Iterator[StoredObject]:
        path = local_path(uri)
        if os.path.isdir(path):
            paths = _walk(path)
        elif os.path.exists(path) or not is_glob(path):
            paths = iter([path])
        else:
            # "." would keep `**/*.jpg` relative to the caller's folder: names in the output are absolute.
            matches = glob.iglob(os.path.abspath(path), recursive=True)
            paths = iter(sorted(match for match in matches if os.path.isfile(match)))
        for found in paths:
            with contextlib.suppress(FileNotFoundError):  # deleted while listing
                yield StoredObject(local_uri(os.path.abspath(found)), _version(os.stat(found)))

    def is_folder(self, uri: str) -> bool:
        return os.path.isdir(local_path(uri))

    def read(self, uri: str, version: str | None = None) -> tuple[bytes, str]:
        with _local_errors(uri), open(local_path(uri), "rb") as file:
            return file.read(), _version(os.fstat(file.fileno()))

    def open(self, uri: str) -> BinaryIO:
        with _local_errors(uri):
            return open(local_path(uri), "rb")

    def exists(self, uri: str) -> bool:
        return os.path.exists(local_path(uri))

    def write(self, uri: str, data: bytes) -> None:
        with _local_errors(uri), _temporary(local_path(uri), data) as temporary:
            os.replace(temporary, local_path(uri))

    def create(self, uri: str, data: bytes) -> bool:
        with _local_errors(uri), _temporary(local_path(uri), data) as temporary:
            try:
                os.link(temporary, local_path(uri))
            except FileExistsError:
                return False
            except OSError:
                # A file system without hard links has no atomic "create with content"; two attempts at one shard
                # at the same time do not occur on one machine.
                if os.path.exists(local_path(uri)):
                    return False
                os.replace(temporary, local_path(uri))
            return True


def local_path(uri: str) -> str:
    """The path of a local URI: `file:///a%20b` is `/a b`; a path without scheme is itself."""
    if scheme_of(uri) != "file" or not _SCHEME.match(uri):
        return uri
    parts = urllib.parse.urlsplit(uri)
    return os.fsdecode(urllib.parse.unquote_to_bytes(parts.path))


def local_uri(path: str) -> str:
    """The URI of a path: itself, but `file://` with escapes where its name is no text, which Parquet could not hold."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return "file://" + urllib.parse.quote(os.fsencode(path))
    return path


def _walk(folder: str) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            yield os.path.join(parent, name)


def _version(stat: os.stat_result) -> str:
    return f"{stat.st_size}-{stat.st_mtime_ns}"


@contextlib.contextmanager
def _temporary(path: str, data: bytes) -> Iterator[str]:
    """A file beside `path` that holds `data`, on the disk and not only in a cache; gone afterwards."""
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    # The leading dot keeps readers of Parquet folders away from it.
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


@contextlib.contextmanager
def _local_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL byte
        reason = getattr(error, "strerror", None) or str(error)
        transient = isinstance(error, (TimeoutError, InterruptedError, BlockingIOError))
        raise StorageError(f"{uri}: {reason}", type(error).__name__, transient) from error


class GoogleCloudStorage:
    """Objects of Google Cloud Storage, through one client a process (its threads share the connections)."""

    @functools.cached_property
    def _client(self) -> gcs.Client:
        from google.cloud import storage as gcs

        return gcs.Client()

    def list(self, uri: str) -> Iterator[StoredObject]:
        bucket, name = _split(uri)
        if is_glob(name):
            select = {"match_glob": name}
        elif not name or name.endswith("/"):
            select = {"prefix": name}
        else:
            blob = self._blob(uri)
            with _gcs_errors(uri):
                found = blob.exists()
            select = {"match_glob": name} if found else {"prefix": name + "/"}
        fields = "items(name,generation),nextPageToken"
        with _gcs_errors(uri):
            for listed in self._client.list_blobs(bucket, fields=fields, **select):
                if not listed.name.endswith("/"):  # a folder's placeholder
                    yield StoredObject(f"gs://{bucket}/{listed.name}", str(listed.generation))

    def is_folder(self, uri: str) -> bool:
        bucket, name = _split(uri)
        prefix = name if not name or name.endswith("/") else name + "/"
        with _gcs_errors(uri):
            return any(True for _ in self._client.list_blobs(bucket, prefix=prefix, max_results=1))

    def read(self, uri: str, version: str | None = None) -> tuple[bytes, str]:
        blob = self._blob(uri, version)
        with _gcs_errors(uri):
            data = blob.download_as_bytes(checksum="crc32c")
            if blob.generation is None:
                blob.reload()
        return data, str(blob.generation)

    def open(self, uri: str) -> BinaryIO:
        with _gcs_errors(uri):
            return self._blob(uri).open("rb")

    def exists(self, uri: str) -> bool:
        with _gcs_errors(uri):
            return self._blob(uri).exists()

    def write(self, uri: str, data: bytes) -> None:
        with _gcs_errors(uri):
            self._blob(uri).upload_from_string(data, "application/octet-stream", checksum="crc32c")

    def create(self, uri: str, data: bytes) -> bool:
        from google.api_core.exceptions import PreconditionFailed

        with _gcs_errors(uri):
            try:
                self._blob(uri).upload_from_string(
                    data, "application/octet-stream", checksum="crc32c", if_generation_match=0
                )
            except PreconditionFailed:
                return False
        return True

    def _blob(self, uri: str, version: str | None = None) -> gcs.Blob:
        bucket, name = _split(uri)
        with _gcs_errors(uri):
            return self._client.bucket(bucket).blob(name, generation=int(version) if version else None)


def _split(uri: str) -> tuple[str, str]:
    bucket, _, name = uri[len("gs://") :].partition("/")
    if not bucket:
        raise StorageError(f"{uri}: names no bucket; write gs://BUCKET/NAME")
    return bucket, name


@contextlib.contextmanager
def _gcs_errors(uri: str) -> Iterator[None]:
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError

    try:
        yield
    except GoogleAPICallError as error:
        code: Any = error.code
        transient = code in (408, 429) or (code or 0) >= 500
        raise StorageError(f"{uri}: {code} {error.message or error}", type(error).__name__, transient) from error
    except GoogleAuthError as error:
        hint = "log in with `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS"
        raise StorageError(f"{uri}: {error}; {hint}", type(error).__name__) from error
    except (OSError, EOFError) as error:  # the connection: requests' errors are OSErrors
        raise StorageError(f"{uri}: {error}", type(error).__name__, transient=True) from error
