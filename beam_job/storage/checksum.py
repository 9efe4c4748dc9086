"""CRC-32C as Google Cloud Storage writes it, and the check of a body against it."""

from __future__ import annotations

import base64

import google_crc32c

from beam_job.storage.base import StorageError


def crc32c_of(data: bytes) -> str:
    """The CRC-32C of `data`, four bytes big-endian in base64."""
    return base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode("ascii")


def crc32c_in(header: str | None) -> str | None:
    """The CRC-32C of an `x-goog-hash` header such as `crc32c=AAAAAA==,md5=...`; None where it has none."""
    for part in (header or "").split(","):
        key, _, value = part.strip().partition("=")
        if key == "crc32c":
            return value
    return None


def check(data: bytes, size: int | None, *checksums: str | None, name: str) -> None:
    """Returns where `data` has that size and all those CRC-32C; None stands for unknown.

    Raises:
      StorageError: it has not; transient, since what was damaged on the way may come whole the next time.
    """
    if size is not None and len(data) != size:
        raise StorageError(f"{name}: {len(data)} bytes came instead of {size}", "SizeMismatch", transient=True)
    wanted = {checksum for checksum in checksums if checksum is not None}
    if wanted and wanted != {found := crc32c_of(data)}:
        listed = ", ".join(sorted(wanted))
        raise StorageError(f"{name}: crc32c {found} instead of {listed}", "ChecksumMismatch", transient=True)
