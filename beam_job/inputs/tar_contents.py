"""The contents of a tar: its images, recognized by name or by content, and their offsets."""

from __future__ import annotations

import dataclasses
import json
import logging
import posixpath
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from beam_job.inputs.names import HEAD_BYTES, has_leftover, is_image_head, is_image_name, is_lfs_pointer, unread_kind
from beam_job.inputs.rows import ListedFailure
from beam_job.storage import Storage

_LOGGER = logging.getLogger(__name__)
_DAMAGED = (tarfile.TarError, ValueError, EOFError, OverflowError)
_BLOCK_BYTES = 1 << 20
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_JSON_BYTES = 1 << 20  # img2dataset writes about 1 kB per image


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


@dataclass
class Contents:
    """What is in a tar.

    Attributes:
      members: the images by name, in their order; of two with one name the later one, as when a tar is unpacked.
      broken: members by name that cannot be captioned, and why.
      damage: what follows the last image, or None.
      repeated: names that came more than once.
      leftovers: members that are operating system files.
      inner: the first archive among the members, which is not supported, or None.
      has_end: whether the zeros that end a tar were found.
    """

    members: dict[str, Member] = field(default_factory=dict)
    broken: dict[str, ListedFailure] = field(default_factory=dict)
    damage: str | None = None
    repeated: int = 0
    leftovers: int = 0
    inner: str | None = None
    has_end: bool = True

    def log(self, tar: str) -> None:
        """Logs what is not captioned, and why."""
        if self.repeated:
            _LOGGER.warning(
                f"{tar}: {self.repeated:,} names occur more than once; the last image of each name is captioned"
            )
        if self.leftovers:
            _LOGGER.info(f"{tar}: {self.leftovers:,} operating system files skipped")
        if self.inner is not None:
            _LOGGER.warning(f"{tar}: archives in it are not read, such as {self.inner}; unpack it")
        if not self.has_end and self.damage is None:
            _LOGGER.warning(
                f"{tar} has no end-of-archive marker, so it may be truncated; the images in it are captioned"
            )
        if not self.members and not self.broken and self.damage is None:
            _LOGGER.warning(f"the tar {tar} holds no images")

    def add(self, name: str, offset: int, size: int) -> None:
        """Adds an image; one of the same name is replaced."""
        self.repeated += name in self.members
        self.members.pop(name, None)
        self.members[name] = Member(name, offset, size, {})


def read_contents(storage: Storage, tar: str, with_fields: bool = False) -> Contents:
    """The images of a tar, recognized by their names or their first bytes."""
    contents = Contents()
    texts: dict[str, bytes] = {}
    places: dict[str, tuple[int, int, bool]] = {}
    links: list[tuple[str, str]] = []
    with storage.open(tar) as file:
        try:
            for entry in _entries(file, contents):
                name = _text(entry.name)
                if has_leftover(name.split("/")):
                    contents.leftovers += 1
                elif entry.islnk() or entry.issym():
                    links.append((name, _target(entry, name)))
                elif entry.isreg() and not entry.issparse():
                    is_image = is_image_name(name) or is_image_head(_part(file, entry, HEAD_BYTES))
                    if contents.inner is None and (name.lower().endswith(".tar") or unread_kind(name)):
                        contents.inner = name
                    places[_normal(name)] = entry.offset_data, entry.size, is_image
                    if is_image:
                        contents.add(name, entry.offset_data, entry.size)
                    elif with_fields and name.lower().endswith(".json") and entry.size <= _JSON_BYTES:
                        texts[_key(name)] = _part(file, entry, _JSON_BYTES)
                elif is_image_name(name) and not entry.isdir():
                    reason = f"{name} is a sparse file or a device, which cannot be read from a tar"
                    contents.broken[name] = ListedFailure("NotAFile", reason)
        except _DAMAGED as error:
            contents.damage = f"{tar} is damaged after {len(contents.members)} images: {error}"
            file.seek(0)
            head = file.read(HEAD_BYTES)
            if is_lfs_pointer(head):
                contents.damage = f"{tar} is a Git LFS pointer; fetch the file with: git lfs pull"
            elif head.startswith(_COMPRESSED):
                contents.damage = f"{tar} is compressed, so single images cannot be read from it; unpack it"
    _add_links(contents, places, links)
    if with_fields:
        for name, member in list(contents.members.items()):
            try:
                fields = _fields(texts.get(_key(name)))
                contents.members[name] = dataclasses.replace(member, fields=fields)
            except ValueError as error:
                del contents.members[name]
                contents.broken[name] = ListedFailure("BadRow", f"the .json file of {name} is not JSON: {error}")
    return contents


def _entries(file: BinaryIO, contents: Contents) -> Iterator[tarfile.TarInfo]:
    """The headers of a tar, and of those that were appended to it (`cat a.tar b.tar`)."""
    start: int | None = 0
    while start is not None:
        file.seek(start)
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for entry in archive:
                yield entry
                archive.members = []  # type: ignore[attr-defined]  # otherwise it keeps every header in memory
            end = archive.offset
        # The module takes a damaged header for the end of the tar; a true end has zeros or nothing.
        file.seek(end)
        block = file.read(tarfile.BLOCKSIZE)
        if block.strip(b"\0"):
            raise tarfile.ReadError("invalid header")
        contents.has_end = bool(block)
        start = _next_archive(file, end)


def _next_archive(file: BinaryIO, end: int) -> int | None:
    """Where the zeros after `end` end; None if they last until the end of the file."""
    file.seek(end)
    while block := file.read(_BLOCK_BYTES):
        if rest := block.lstrip(b"\0"):
            place = end + len(block) - len(rest)
            return place - place % tarfile.BLOCKSIZE
        end += len(block)
    return None


def _part(file: BinaryIO, entry: tarfile.TarInfo, most: int) -> bytes:
    """The first bytes of a member."""
    file.seek(entry.offset_data)
    return file.read(min(most, entry.size))


def _text(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _normal(name: str) -> str:
    return posixpath.normpath(name)


def _target(entry: tarfile.TarInfo, name: str) -> str:
    """The member that a link leads to: a hard link names it, a symbolic link starts at its own folder."""
    target = _text(entry.linkname)
    return _normal(posixpath.join(posixpath.dirname(name), target) if entry.issym() else target)


def _add_links(
    contents: Contents, places: Mapping[str, tuple[int, int, bool]], links: Sequence[tuple[str, str]]
) -> None:
    """Adds the links that lead to images, through other links too; those of an image's name that do not are broken."""
    targets = {_normal(name): target for name, target in links}
    for name, target in links:
        seen: set[str] = set()
        last = target
        while last not in places and last in targets and last not in seen:
            seen.add(last)
            last = targets[last]
        offset, size, is_image = places.get(last, (0, 0, False))
        if is_image:
            contents.add(name, offset, size)
        elif is_image_name(name):
            reason = f"{name} is a link to {target}, which is not an image in this tar"
            contents.broken[name] = ListedFailure("BrokenLink", reason)


def _key(name: str) -> str:
    """The key of a sample, shared by its files: the name up to the first dot of its last part."""
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}"


def _fields(text: bytes | None) -> Mapping[str, Any]:
    """Raises ValueError where it is not JSON."""
    try:
        fields = json.loads(text or b"{}")
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return fields if isinstance(fields, dict) else {}
