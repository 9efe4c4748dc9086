"""Files of other clouds, through fsspec and the packages that implement their schemes."""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

from beam_job.storage.base import (
    CONTENT,
    FOLDER_MARKS,
    LATER,
    OPTIONS,
    ByteMeter,
    CredentialsError,
    StorageError,
    StoredObject,
    UnknownSchemeError,
    is_glob,
)
from beam_job.storage.checksum import check
from beam_job.storage.read_only import ReadOnly
from beam_job.storage.responses import is_transient, retry_when_of
from beam_job.storage.retry import Deadline, Retrying, retrying

# The schemes, and the package that each needs besides fsspec; `caption-images[fsspec]` brings fsspec and s3fs.
FSSPEC_SCHEMES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "az": "adlfs",
    "abfs": "adlfs",
    "hf": "huggingface_hub",
    "memory": "",
}
_CHUNK = 1 << 20
# Entries of `info` that change with the content, best first; times are combined with the size.
_TAGS = ("ETag", "etag", "blob_id", "md5", "checksum")
_TIMES = ("mtime", "LastModified", "last_modified", "created")
_PERMANENT = (LookupError, NotImplementedError, PermissionError, TypeError, ValueError)
_MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
# S3's codes for credentials that are wrong or have expired; a refusal of one object has the code AccessDenied.
_S3_CREDENTIALS = (
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
)
_LOG_IN = {
    "s3": "run `aws configure` or `aws sso login`, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_CONNECTION_STRING",
    "hf": "run `hf auth login`, or set HF_TOKEN",
}
_LOG_IN |= {"s3a": _LOG_IN["s3"], "abfs": _LOG_IN["az"]}


class FsspecStorage(ReadOnly):
    """One scheme of fsspec, with one file system per process, which takes credentials and endpoints from its package.

    It is read-only, except for `S3Storage`: no file system of fsspec guarantees writes that are both atomic and
    exclusive, and the output needs both. Listed URIs keep the scheme and the host or bucket as the user wrote them
    (`s3a` is not turned into `s3`).
    """

    def __init__(self, scheme: str, retrying: Retrying = retrying) -> None:
        self._scheme = scheme
        self._retrying = retrying
        self._lock = threading.Lock()
        self._made: Any = None

    @property
    def _fs(self) -> Any:
        with self._lock:
            if self._made is None:
                self._made = _file_system(self._scheme)
            return self._made

    def list(self, uri: str) -> Iterator[StoredObject]:
        with self._errors(uri):
            search = self._fs.glob if is_glob(uri) else self._fs.find
            found = search(self._path(uri), detail=True)
            root = uri.partition("://")[2].partition("/")[0]
            stripped = self._path(f"{self._scheme}://{root}")
        for path, info in sorted(found.items()):
            if info["type"] == "file" and not path.endswith(FOLDER_MARKS):
                rest = path[len(stripped) :] if path.startswith(stripped) else f"/{path.lstrip('/')}"
                yield _stored(f"{self._scheme}://{root}{rest}", info)

    def stat(self, uri: str) -> StoredObject:
        with self._errors(uri):
            return _stored(uri, self._fs.info(self._path(uri)))

    def is_folder(self, uri: str) -> bool:
        with self._errors(uri):
            return self._fs.isdir(self._path(uri))

    def read(
        self,
        uri: str,
        version: str | None = None,
        timeout: float = 60.0,
        size: int | None = None,
        crc32c: str | None = None,
        offset: int | None = None,
        max_bytes: int | None = None,
        on_size: Callable[[int], None] | None = None,
    ) -> tuple[bytes, str]:
        """See `Storage.read`. fsspec cannot read a certain version, so the present content and version are returned.

        The content must be as long as the file was just before. This takes two requests or more.
        """
        end = None if offset is None or size is None else offset + size
        meter = ByteMeter(uri, max_bytes, on_size)
        return self._retrying(lambda deadline: self._read(uri, deadline, meter, offset, end), timeout)

    def open(self, uri: str) -> BinaryIO:
        with self._errors(uri):
            return self._fs.open(self._path(uri), "rb")

    def exists(self, uri: str) -> bool:
        try:
            self.stat(uri)
        except StorageError as error:
            if isinstance(error.__cause__, _MISSING):
                return False
            raise
        return True

    def _path(self, uri: str) -> str:
        """The file system's own name for a URI, whose scheme may be written in capitals."""
        return str(self._fs._strip_protocol(f"{self._scheme}://{uri.partition('://')[2]}"))

    def _read(
        self, uri: str, deadline: Deadline, meter: ByteMeter, start: int | None, end: int | None
    ) -> tuple[bytes, str]:
        with self._errors(uri):
            path = self._path(uri)
            info = self._wait(self._fs._info, path, deadline) if self._fs.async_impl else self._fs.info(path)
            stored = _stored(uri, info)
            size = stored.size if start is None or end is None else end - start
            meter.version = stored.version
            meter.check(size)
            if self._fs.async_impl:
                data = self._wait(functools.partial(self._fs._cat_file, start=start, end=end), path, deadline)
            else:
                data = self._read_in_chunks(path, deadline, start or 0, size)
        check(data, size, name=uri)
        return data, stored.version

    def _wait(self, call: Callable[[str], Any], path: str, deadline: Deadline) -> Any:
        """The result of an asynchronous call, cancelled at the deadline, in the middle of a read if need be."""
        sync = importlib.import_module("fsspec.asyn").sync
        # 0 would wait for ever.
        return sync(self._fs.loop, call, path, timeout=max(deadline.left(), 0.001))

    def _read_in_chunks(self, path: str, deadline: Deadline, start: int, size: int) -> bytes:
        """Reads a blocking file system in pieces; the deadline is checked after each piece."""
        data = bytearray()
        with self._fs.open(path, "rb") as file:
            file.seek(start)
            while chunk := file.read(min(_CHUNK, size - len(data))):
                data += chunk
                if deadline.expired:
                    raise TimeoutError(f"only {len(data)} bytes were received within the time limit")
        return bytes(data)

    @contextlib.contextmanager
    def _errors(self, uri: str) -> Iterator[None]:
        """Turns the errors of the scheme's package into StorageError."""
        try:
            yield
        except StorageError:
            raise
        except Exception as error:  # those of botocore, aiohttp and Azure have no base class in common
            raise _storage_error(uri, self._scheme, error) from error


def _file_system(scheme: str) -> Any:
    try:
        made = importlib.import_module("fsspec").get_filesystem_class(scheme)
    except (ImportError, ValueError) as error:
        package = FSSPEC_SCHEMES.get(scheme, "")
        also = f" and `pip install {package}`" if package not in ("", "s3fs") else ""
        hint = f"{scheme}:// needs `pip install 'caption-images[fsspec]'`{also}"
        raise UnknownSchemeError(f"{hint}: {error}", type(error).__name__) from error
    try:
        return made(use_listings_cache=False)  # a listing kept in memory would hide that a file has changed
    except ValueError as error:  # adlfs without an account
        raise CredentialsError(
            f"{scheme}://: {_line(error)}; {_LOG_IN.get(scheme, '')}", type(error).__name__
        ) from error


def _stored(uri: str, info: Mapping[str, Any]) -> StoredObject:
    if info["type"] != "file":
        raise IsADirectoryError(f"{uri} is a folder")
    return StoredObject(uri, _version(info), int(info["size"] or 0))


def _version(info: Mapping[str, Any]) -> str:
    for tag in _TAGS:
        if info.get(tag):
            return str(info[tag]).strip('"')
    stamp = next((info[time] for time in _TIMES if info.get(time)), "")
    if isinstance(stamp, datetime.datetime):  # `info` and `find` of one file system may differ here
        stamp = stamp.timestamp()
    return f"{info['size']}-{stamp}"


def _storage_error(uri: str, scheme: str, error: Exception) -> StorageError:
    """The error of another package in this package's terms."""
    message, cause = f"{uri}: {_line(error)}", type(error).__name__
    if _lacks_credentials(error):
        return CredentialsError(f"{message}; {_LOG_IN.get(scheme, 'set its credentials')}", cause)
    if isinstance(error, _MISSING):
        return StorageError(message, cause, retry_when=CONTENT if isinstance(error, IsADirectoryError) else LATER)
    status = getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "status_code", None)
    if isinstance(status, int):
        return StorageError(message, cause, is_transient(status), retry_when=retry_when_of(status))
    retry_when = OPTIONS if isinstance(error, PermissionError) else LATER
    return StorageError(message, cause, not isinstance(error, _PERMANENT), retry_when=retry_when)


def _lacks_credentials(error: BaseException) -> bool:
    """Whether the package found no credentials (botocore, Azure), or the service does not accept them."""
    link: BaseException | None = error
    while link is not None:
        name = type(link).__name__
        response = getattr(link, "response", None)
        code = response.get("Error", {}).get("Code") if isinstance(response, Mapping) else None
        if any(word in name for word in ("Credential", "TokenLoad", "TokenRetrieval", "UnauthorizedSSO", "LocalToken")):
            return True
        if name == "ClientAuthenticationError" or code in _S3_CREDENTIALS:
            return True
        link = link.__cause__
    return False


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
