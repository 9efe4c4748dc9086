"""CRC-32C as Google Cloud Storage writes it, and checks against it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import BinaryIO

import google_crc32c

from beam_job.storage.base import StorageError

_CHUNK = 1 << 20


def crc32c_of(data: bytes) -> str:
    """The CRC-32C of `data`, four bytes big-endian in base64."""
    return _as_text(google_crc32c.value(data))


def crc32c_in(header: str | None) -> str | None:
    """The CRC-32C in an `x-goog-hash` header such as `crc32c=AAAAAA==,md5=...`; None if there is none."""
    for part in (header or "").split(","):
        key, _, value = part.strip().partition("=")
        if key == "crc32c":
            return value
    return None


def check(data: bytes, size: int | None, *checksums: str | None, name: str) -> None:
    """Checks that `data` has that size and those CRC-32C; None stands for unknown.

    Raises:
      StorageError: it has not; transient, since data damaged in transfer may arrive intact the next time.
    """
    _compare(len(data), lambda: crc32c_of(data), size, checksums, name)


def check_file(file: BinaryIO, size: int | None, *checksums: str | None, name: str) -> None:
    """Like `check`, for the content of a file, which is read from its start."""
    file.seek(0)
    crc, length = 0, 0
    while chunk := file.read(_CHUNK):
        crc, length = google_crc32c.extend(crc, chunk), length + len(chunk)
    _compare(length, lambda: _as_text(crc), size, checksums, name)


def _as_text(crc: int) -> str:
    return base64.b64encode(crc.to_bytes(4, "big")).decode("ascii")


def _compare(
    length: int, crc32c: Callable[[], str], size: int | None, checksums: tuple[str | None, ...], name: str
) -> None:
    if size is not None and length != size:
        raise StorageError(f"{name}: received {length} bytes instead of {size}", "SizeMismatch", transient=True)
    wanted = {checksum for checksum in checksums if checksum is not None}
    if wanted and wanted != {found := crc32c()}:
        listed = ", ".join(sorted(wanted))
        raise StorageError(f"{name}: crc32c {found} instead of {listed}", "ChecksumMismatch", transient=True)
