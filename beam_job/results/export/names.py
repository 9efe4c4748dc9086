"""Makes safe file names from URIs, which may come from strangers."""

from __future__ import annotations

import hashlib
import os
import posixpath
import unicodedata

from beam_job.inputs.tars import container_of
from beam_job.storage import local_path, public_name, scheme_of

_STEM_CHARACTERS = 40  # at most four bytes each: with checksum and suffix below the 255 bytes that file systems allow
_SEGMENT_BYTES = 200
_FORBIDDEN = frozenset('<>:"|?*\\')  # on Windows, where exports may be copied to

# (offset, bytes, suffix) of the image formats: the content decides, not the name.
_SIGNATURES = (
    (0, b"\xff\xd8\xff", ".jpg"),
    (0, b"\x89PNG\r\n\x1a\n", ".png"),
    (8, b"WEBP", ".webp"),
    (0, b"GIF8", ".gif"),
    (0, b"BM", ".bmp"),
    (0, b"II*\0", ".tif"),
    (0, b"MM\0*", ".tif"),
    (4, b"ftypavi", ".avif"),
    (4, b"ftyp", ".heic"),
)
SIGNATURE_BYTES = 16


class UnusableNameError(ValueError):
    """A URI cannot be turned into a file name; the message says why."""


def suffix_of(head: bytes) -> str:
    """The suffix for an image file with these first bytes; `.img` for an unknown format."""
    return next((suffix for at, mark, suffix in _SIGNATURES if head[at : at + len(mark)] == mark), ".img")


def flat_name(uri: str) -> str:
    """A unique name without suffix: the readable characters of the URI's last part, and a checksum of the whole URI.

    Letters and digits of any script, `-` and `_` are kept. The name is the same in every export.
    """
    container = container_of(uri)
    last = (uri[len(container) + 1 :] if container != uri else public_name(uri)).rstrip("/").split("/")[-1]
    stem = unicodedata.normalize("NFC", posixpath.splitext(last)[0])[:_STEM_CHARACTERS]
    readable = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in stem).lstrip("-")
    checksum = hashlib.sha256(uri.encode("utf-8")).hexdigest()[:16]
    return f"{readable or 'image'}-{checksum}"


def name_below(uri: str, root: str) -> str:
    """The part of `uri` below `root`, as a relative path that cannot leave the folder it is joined to.

    Raises:
      UnusableNameError: it is not below `root`, or has a segment that a file system or another tool might misread.
    """
    base, name = (_absolute(root).rstrip("/") + "/"), _absolute(uri)
    if not name.startswith(base):
        raise UnusableNameError(f"is not below --root={root}")
    relative = name[len(base) :]
    for segment in relative.split("/"):
        odd = any(letter in _FORBIDDEN or unicodedata.category(letter)[0] == "C" for letter in segment)
        if segment in ("", ".", "..") or odd or len(os.fsencode(segment)) > _SEGMENT_BYTES:
            raise UnusableNameError(
                f"{segment[:80]!r} is not usable as a file name; without --root, names are generated"
            )
    return relative


def _absolute(uri: str) -> str:
    """Makes a local path absolute without resolving `..`, which must be refused."""
    return os.path.join(os.getcwd(), local_path(uri)) if scheme_of(uri) == "file" else uri
