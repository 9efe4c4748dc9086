"""Versions of stored objects as text, in the column `object_version`.

A local file's is `SIZE-MTIME`, from its listing, and `SIZE-MTIME-HASH` once it has been read: a copy, a restore or
`touch` changes the time of a file, but not what it shows. An object's in a bucket is its generation or ETag.
"""

from __future__ import annotations

import hashlib
import os
import re

_HASH_BYTES = 8
READ_VERSION = re.compile(r"(\d+)-(\d+)-([0-9a-f]{16})")


def listed_version(found: os.stat_result) -> str:
    """The version of a local file that has not been read."""
    return f"{found.st_size}-{found.st_mtime_ns}"


def read_version(found: os.stat_result, data: bytes) -> str:
    """The version of a local file with this content."""
    return f"{listed_version(found)}-{hashlib.blake2b(data, digest_size=_HASH_BYTES).hexdigest()}"


def is_same_version(one: str, other: str) -> bool:
    """Whether two versions of a URI are of the same content, as far as they tell."""
    first, second = READ_VERSION.fullmatch(one), READ_VERSION.fullmatch(other)
    if first and second:
        return first[1] == second[1] and first[3] == second[3]
    return listed_version_of(one) == listed_version_of(other)


def content_version(version: str) -> str:
    """`SIZE-HASH` of a local file that has been read; any other version as it is."""
    return READ_VERSION.sub(r"\1-\3", version) if READ_VERSION.fullmatch(version) else version


def listed_version_of(version: str) -> str:
    """A version as a listing gives it: without the hash."""
    return READ_VERSION.sub(r"\1-\2", version) if READ_VERSION.fullmatch(version) else version
