"""WebDataset tars, as img2dataset writes them: `00000.tar` with images and, under the same key, their `json`.

An image's URI is the tar's, `#`, and the member's name: `gs://bucket/00000.tar#000000123.jpg`. A tar is read from start
to end when it is listed; the plan keeps each image's offset, so that one read of a part fetches it.
"""

from __future__ import annotations

import json
import posixpath
import tarfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa

from beam_job.inputs.lists import LISTING_FIELDS, ListError
from beam_job.records import ImageInput
from beam_job.storage import CONTENT, Storage, StorageError, StoredObject, storage_for

TAR_SUFFIX = ".tar"
MEMBER_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_DAMAGED = (tarfile.TarError, ValueError, EOFError, OverflowError)
_JSON_BYTES = 1 << 20  # img2dataset writes about 1 kB per image
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True)
class Member:
    """An image in a tar.

    Attributes:
      name: in the tar.
      offset: of its first byte.
      size: bytes.
      fields: of the JSON file with the same key, if they were asked for.
    """

    name: str
    offset: int
    size: int
    fields: Mapping[str, Any]


def is_tar(uri: str) -> bool:
    """Whether the name is that of a tar."""
    return uri.lower().endswith(TAR_SUFFIX)


def is_packed_tar(uri: str) -> bool:
    """Whether the name is that of a compressed tar, of which parts cannot be read."""
    return uri.lower().endswith(_PACKED)


def container_of(uri: str) -> str:
    """The file that contains an image: the tar of a member, otherwise `uri` itself."""
    return _split(uri)[0]


def list_members(stored: StoredObject, carry_columns: Sequence[str] = ()) -> pa.RecordBatch:
    """The images of a tar in their order: `LISTING_FIELDS`, and `carry_columns` from the JSON files beside them.

    If the tar is damaged, the images before the damage are followed by a row for the tar itself, which will fail with
    the reason: what came after the damage is unknown.

    Raises:
      StorageError: the tar cannot be opened.
      ListError: a carried column has values of no common type.
    """
    members, reason = _read_members(storage_for(stored.uri), stored.uri, with_fields=bool(carry_columns))
    uris: list[str] = [f"{stored.uri}#{member.name}" for member in members]
    sizes: list[int | None] = [member.size for member in members]
    offsets: list[int | None] = [member.offset for member in members]
    fields: list[Mapping[str, Any]] = [member.fields for member in members]
    if reason is not None:
        uris, sizes, offsets, fields = [*uris, stored.uri], [*sizes, None], [*offsets, None], [*fields, {}]
    own = [uris, [stored.version] * len(uris), sizes, [None] * len(uris), offsets]
    arrays = [pa.array(column, field.type) for column, field in zip(own, LISTING_FIELDS, strict=True)]
    carried = [_carried(stored.uri, name, fields) for name in carry_columns]
    names = [*(field.name for field in LISTING_FIELDS), *carry_columns]
    return pa.record_batch([*arrays, *carried], names=names)


def read_member(storage: Storage, image: ImageInput, timeout: float, max_bytes: int | None = None) -> tuple[bytes, str]:
    """The bytes of an image in a tar, and the tar's version.

    Args:
      storage: of the tar.
      image: with the offset from the listing. Without one (its URI comes from a list) the tar is read from start to
        end, and its table of contents is kept for the images that follow.
      timeout: seconds, retries included.
      max_bytes: limit of the image's size.

    Raises:
      StorageError: it cannot be read, or the tar has changed since it was listed.
    """
    tar, name = _split(image.uri)
    version, offset, size = image.object_version, image.tar_offset, image.size
    if offset is None or size is None:
        found = storage.stat(tar)
        version, member = found.version, _member(storage, found, name)
        offset, size = member.offset, member.size
    if size == 0:
        return b"", version or ""
    data, came = storage.read(tar, version, timeout, size, offset=offset, max_bytes=max_bytes)
    if version and came and came != version:
        raise StorageError(
            f"{tar} has changed since it was listed: version {came} came instead of {version}", "TarChanged"
        )
    return data, came


def check_is_no_tar(storage: Storage, uri: str) -> None:
    """Checks that `uri` is not a tar.

    Raises:
      StorageError: it is one; the message says what is wrong with it, or how to give it.
    """
    if not is_tar(uri):
        return
    members, reason = _read_members(storage, uri)
    if reason is not None:
        raise StorageError(reason, "DamagedTar", retry_when=CONTENT)
    hint = f"give it as --input, or name its images as {uri}#NAME"
    raise StorageError(
        f"{uri} is a tar of {len(members)} images, not an image; {hint}", "NotAnImage", retry_when=CONTENT
    )


def _split(uri: str) -> tuple[str, str]:
    """A member's tar and name; the URI and "" for anything else."""
    place = uri.lower().find(f"{TAR_SUFFIX}#")
    return (uri, "") if place < 0 else (uri[: place + 4], uri[place + 5 :])


def _read_members(storage: Storage, tar: str, with_fields: bool = False) -> tuple[list[Member], str | None]:
    """The images of a tar, and the damage that follows the last of them, or None."""
    members: list[Member] = []
    texts: dict[str, bytes] = {}
    reason = None
    with storage.open(tar) as file:
        try:
            for entry, archive in _entries(file):
                name = entry.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
                suffix = posixpath.splitext(name)[1].lower()
                if suffix in MEMBER_SUFFIXES:
                    members.append(Member(name, entry.offset_data, entry.size, {}))
                elif suffix == ".json" and with_fields and entry.size <= _JSON_BYTES:
                    texts[_key(name)] = content.read() if (content := archive.extractfile(entry)) else b""
        except _DAMAGED as error:
            reason = f"{tar} is damaged after {len(members)} images: {error}"
    if with_fields:
        members = [Member(m.name, m.offset, m.size, _fields(tar, m.name, texts.get(_key(m.name)))) for m in members]
    return members, reason


def _entries(file: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for entry in archive:
            if entry.isreg() and not entry.issparse():
                yield entry, archive
            archive.members = []  # type: ignore[attr-defined]  # otherwise it keeps every header in memory
        # The module takes a damaged header for the end of the tar; a true end has zeros or nothing.
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError("invalid header")


def _key(name: str) -> str:
    """The key of a sample, shared by its files: the name up to the first dot of its last part."""
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}"


def _fields(tar: str, name: str, text: bytes | None) -> Mapping[str, Any]:
    if text is None:
        return {}
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise ListError(f"{tar}: the .json file beside {name} is not JSON: {error}") from error
    return fields if isinstance(fields, dict) else {}


def _carried(tar: str, column: str, rows: Sequence[Mapping[str, Any]]) -> pa.Array:
    try:
        return pa.array([row.get(column) for row in rows])
    except pa.ArrowException as error:
        raise ListError(f"{tar}: {column} has values of several types in its JSON files: {error}") from error


_TARS_KEPT = 8
_contents: dict[
    tuple[str, str], Mapping[str, Member]
] = {}  # of the tars used last, by URI and version; guarded by _lock
_lock = threading.Lock()


def _member(storage: Storage, tar: StoredObject, name: str) -> Member:
    with _lock:  # one thread reads the tar, the others wait
        key = (tar.uri, tar.version)
        if key not in _contents:
            if len(_contents) == _TARS_KEPT:
                _contents.pop(next(iter(_contents)))
            _contents[key] = {member.name: member for member in _read_members(storage, tar.uri)[0]}
        members = _contents[key]
    if name not in members:
        raise StorageError(f"{tar.uri} holds no image {name}", "MemberNotFound", retry_when=CONTENT)
    return members[name]
