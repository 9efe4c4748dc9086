"""Recognizes images by name or first bytes, and operating system files by name."""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Iterable

# Only these are taken from a folder; globs and lists may name any file.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif", ".hif"),
)
HEAD_BYTES = 32  # enough of a file for `is_image_head`
# JPEG, PNG, GIF, WebP, BMP with its known headers, TIFF, AVIF and HEIC.
_HEADS = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"
    rb"|II[*+]\0|MM\0[*+]|....ftyp(?:avi[fs]|hei[cxms]|hev[cxms]|mif1|msf1)",
    re.DOTALL,
)
# Unsupported files that contain images or lists, by extension: what they are, and what to do.
_UNREAD = {
    r"\.(?:tar\.(?:gz|bz2|xz|zst)|tgz|tbz2?|txz)": "compressed, so single images cannot be read from it; unpack it",
    r"\.(?:zip|7z|rar)": "an archive, from which images are not read; unpack it",
    r"\.(?:arrow|feather)": "an Arrow file, which is not supported; write it as Parquet, with "
    "datasets.Dataset.to_parquet or pyarrow.parquet.write_table",
    r"\.(?:tfrecords?|array_record)(?:-\d+-of-\d+)?": "a file of records, which is not supported; write its "
    "images to tars, Parquet or files",
    r"\.(?:xlsx?|ods)": "a spreadsheet, which is not supported; save it as CSV",
}
# Resource forks and folder views of macOS, thumbnails and bins of Windows, of desktops, and of NAS boxes.
_LEFTOVER_NAMES = frozenset(
    name.lower()
    for name in (
        *("__MACOSX", ".DS_Store", ".AppleDouble", ".Spotlight-V100", ".fseventsd", ".TemporaryItems", ".Trashes"),
        *("Thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$RECYCLE.BIN", "RECYCLER"),
        *("System Volume Information", ".thumbnails", ".thumbs", ".Trash", ".xvpics", ".picasaoriginals"),
        *("@eaDir", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot", ".@__thumb", ".@upload_cache"),
    )
)
_LEFTOVER_PATTERNS = ("._*", ".trash-*", "ehthumbs*.db", ".nfs????????*", ".fuse_hidden*")


def suffix_of(uri: str) -> str:
    """The extension in lower case, such as `.jpg`."""
    return posixpath.splitext(uri)[1].lower()


def is_image_name(uri: str) -> bool:
    """Whether the name ends like that of an image."""
    return suffix_of(uri) in IMAGE_SUFFIXES


def unread_kind(uri: str) -> str | None:
    """Describes an unsupported file that contains images, and says what to do; None for other files."""
    name = posixpath.basename(uri).lower()
    return next((what for pattern, what in _UNREAD.items() if re.search(rf"{pattern}$", name)), None)


def is_image_head(head: bytes) -> bool:
    """Whether a file that begins with these bytes is an image."""
    return _HEADS.match(head) is not None


def is_lfs_pointer(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a pointer of Git LFS instead of a file of the user's."""
    return head.startswith(b"version https://git-lfs.")


def has_leftover(segments: Iterable[str]) -> bool:
    """Whether one of the segments of a name is that of a leftover: `._x.jpg`, `@eaDir`, `Thumbs.db`."""
    return any(
        name in _LEFTOVER_NAMES or any(fnmatch.fnmatchcase(name, pattern) for pattern in _LEFTOVER_PATTERNS)
        for name in map(str.lower, segments)
    )
