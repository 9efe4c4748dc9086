"""WebDataset tars, as img2dataset writes them: `00000.tar` with images and, under the same key, their `json`.

An image's URI is the tar's, `#`, and the member's name: `gs://bucket/00000.tar#000000123.jpg`. A tar is read from start
to end when it is listed; the plan keeps each image's offset, so that one read of a part fetches it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_job.inputs.columns import json_array
from beam_job.inputs.rows import LISTING_FIELDS, ListedFailure, failed_rows, listing_columns
from beam_job.inputs.shared_cache import SharedCache
from beam_job.inputs.tar_contents import read_contents
from beam_job.records import ImageInput
from beam_job.storage import CONTENT, Storage, StorageError, StoredObject, storage_for

TAR_SUFFIX = ".tar"
_INDEXED_IMAGES = 4_000_000  # 128 MB
_FIELD_NAMES = [field.name for field in LISTING_FIELDS]


def is_tar(uri: str) -> bool:
    """Whether the name is that of a tar."""
    return uri.lower().endswith(TAR_SUFFIX)


def container_of(uri: str) -> str:
    """The file that contains an image: the tar of a member, otherwise `uri` itself."""
    return _split(uri)[0]


def list_members(stored: StoredObject, carry_columns: Sequence[str] = ()) -> pa.RecordBatch:
    """The images of a tar in their order: `LISTING_FIELDS`, and `carry_columns` from the JSON files beside them.

    If the tar is damaged, the images before the damage are followed by a row for the tar itself, which has failed with
    the reason: what came after the damage is unknown. So has a row for each link to an image that is not in the tar.

    Raises:
      StorageError: the tar cannot be opened.
    """
    contents = read_contents(storage_for(stored.uri), stored.uri, with_fields=bool(carry_columns))
    contents.log(stored.uri)
    members = list(contents.members.values())
    own = listing_columns(
        len(members),
        uri=pa.array([f"{stored.uri}#{member.name}" for member in members], pa.string()),
        object_version=pa.array([stored.version] * len(members), pa.string()),
        size=pa.array([member.size for member in members], pa.int64()),
        tar_offset=pa.array([member.offset for member in members], pa.int64()),
    )
    carried = [json_array([member.fields.get(name) for member in members]) for name in carry_columns]
    names = [*_FIELD_NAMES, *carry_columns]
    failed = [(f"{stored.uri}#{name}", failure) for name, failure in contents.broken.items()]
    if contents.damage is not None:
        failed.append((stored.uri, ListedFailure("DamagedTar", contents.damage)))
    rows = pa.table([*own, *carried], names=names)
    if failed:
        uris, reasons = zip(*failed, strict=True)
        nulls = [pa.nulls(len(failed), column.type) for column in carried]
        last = pa.table([*failed_rows(uris, reasons, stored.version).columns, *nulls], names=names)
        rows = pa.concat_tables([rows, last])
    return pa.record_batch([column.combine_chunks() for column in rows.columns], names=names)


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
        version = found.version
        offset, size = _INDEXES.get((tar, found.version)).place_of(name)
    if size == 0:
        return b"", version or ""
    data, came = storage.read(tar, version, timeout, size, offset=offset, max_bytes=max_bytes)
    if version and came and came != version:
        raise StorageError(
            f"{tar} has changed since it was listed: it is now version {came} instead of {version}", "TarChanged"
        )
    return data, came


def check_is_no_tar(storage: Storage, uri: str) -> None:
    """Checks that `uri` is not a tar.

    Raises:
      StorageError: it is one; the message says what is wrong with it, or how to give it.
    """
    if not is_tar(uri):
        return
    contents = read_contents(storage, uri)
    if contents.damage is not None:
        raise StorageError(contents.damage, "DamagedTar", retry_when=CONTENT)
    hint = f"give it as --input, or name its images as {uri}#NAME"
    raise StorageError(
        f"{uri} is a tar of {len(contents.members)} images, not an image; {hint}", "NotAnImage", retry_when=CONTENT
    )


def _split(uri: str) -> tuple[str, str]:
    """A member's tar and name; the URI and "" for anything else."""
    place = uri.lower().find(f"{TAR_SUFFIX}#")
    return (uri, "") if place < 0 else (uri[: place + 4], uri[place + 5 :])


@dataclass(frozen=True)
class _Index:
    """Where the images of a tar lie, in 32 bytes each."""

    tar: str
    keys: npt.NDArray[np.bytes_]
    places: npt.NDArray[np.int64]

    def place_of(self, name: str) -> tuple[int, int]:
        """Offset and size of an image.

        Raises:
          StorageError: the tar holds no image of that name.
        """
        key = np.bytes_(_digest(name))
        at = int(np.searchsorted(self.keys, key))
        if at == len(self.keys) or self.keys[at] != key:
            raise StorageError(f"{self.tar} holds no image {name}", "MemberNotFound", retry_when=CONTENT)
        offset, size = self.places[at]
        return int(offset), int(size)


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _index(key: tuple[str, str]) -> _Index:
    tar, _ = key
    members = list(read_contents(storage_for(tar), tar).members.values())
    keys = np.array([_digest(member.name) for member in members], "S16")
    places = np.array([(member.offset, member.size) for member in members], np.int64).reshape(-1, 2)
    order = np.argsort(keys)
    return _Index(tar, keys[order], places[order])


# Of the tars whose images lists name, by URI and version: a shuffled list must not read a tar once for each image.
_INDEXES = SharedCache(_INDEXED_IMAGES, _index, lambda index: len(index.keys))
