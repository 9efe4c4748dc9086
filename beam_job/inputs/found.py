"""The content of a folder, glob or bucket: images, tars, lists, and operating system files."""

from __future__ import annotations

import enum
import logging
import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping

from beam_job.inputs.list_formats import plain_name
from beam_job.inputs.lists import is_list, is_table
from beam_job.inputs.names import has_leftover, is_image_name, unread_kind
from beam_job.inputs.tars import is_tar
from beam_job.records import RUN_ID
from beam_job.storage import StoredObject, is_glob, literal_part, local_path, local_uri, public_name, scheme_of
from beam_job.text import counted

_LOGGER = logging.getLogger(__name__)
_MARK = re.compile(r"/[_.](?![^/]*=)")  # but `_date=2024-05-06` is a partition
# Files that this job writes, in an output inside the input.
_OWN = re.compile(
    rf"(?:^|/)(?:(?:captions|failures)/run={RUN_ID}/|runs/{RUN_ID}/|_LEASE/\.?\d{{6,}}\.json"
    r"|corrections/\.?\d{8}T\d{9}Z-[0-9a-f]+\.jsonl)"
)
_NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"


class Contents:
    """What was found at an input.

    Args:
      given: the input.

    Attributes:
      own_name: the name of the input, if it is a single file, as a listing spells it.
      found: files, except for leftovers.
      leftovers: files that are operating system files.
      own: files that this job has written into an output below the input.
      unread_lists: lists that lie beside images.
      unread: archives and other files that contain images and are not read.
      others: files of a folder whose names are of no known kind.
      marked_lists: lists that are not read since they, or their folders, begin with `_` or a dot.
    """

    def __init__(self, given: str) -> None:
        self.given = given
        self.found = 0
        self.leftovers = 0
        self.own = 0
        self.unread_lists = 0
        self.unread = 0
        self.others = 0
        self.marked_lists = 0
        self._examples: dict[str, str] = {}
        is_local = scheme_of(given) == "file"
        self.own_name = local_uri(os.path.abspath(local_path(given))) if is_local else given
        self._root = literal_part(self.own_name).rpartition("/")[0] if is_glob(given) else self.own_name
        self._wants_leftovers = has_leftover(given.split("/"))

    def is_leftover(self, uri: str) -> bool:
        """Whether a file is a leftover, which is counted; not if the input asks for leftovers by name."""
        if self._wants_leftovers or not has_leftover(uri.removeprefix(self._root).split("/")):
            return False
        self.leftovers += 1
        self._examples.setdefault("leftover", uri)
        return True

    def is_own(self, uri: str) -> bool:
        """Whether this job wrote the file, which is then counted; False if the input is inside the output."""
        is_own = _OWN.search(uri.removeprefix(self._root)) is not None
        self.own += is_own
        return is_own

    def is_mark(self, uri: str, by_name: bool = True) -> bool:
        """Whether a file is not meant to be read, as Spark and Delta Lake name theirs: `_SUCCESS`, `_delta_log/0.json`.

        Args:
          uri: of the file.
          by_name: whether its own name counts, or only those of its folders. A pattern with such a name asks for it.
        """
        pattern = self.own_name.removeprefix(self._root)
        if "/_" in pattern or "/." in pattern:
            return False
        folders, _, name = uri.removeprefix(self._root).rpartition("/")
        is_marked = (by_name and name.startswith(("_", "."))) or _MARK.search(f"/{folders}/") is not None
        if is_marked and is_table(uri):
            self.marked_lists += 1
            self._examples.setdefault("marked", uri)
        return is_marked

    def add_unread_list(self, uri: str) -> None:
        """Counts a list that is not read, since there are images."""
        self.unread_lists += 1
        self._examples.setdefault("list", uri)

    def add_unread(self, uri: str) -> None:
        """Counts a file that contains images and is not read."""
        self.unread += 1
        self._examples.setdefault("unread", uri)

    def add_other(self, uri: str) -> None:
        """Counts a file of a folder whose name is of no known kind."""
        self.others += 1
        self._examples.setdefault("other", uri)

    @property
    def description(self) -> str:
        """What else was found there."""
        leftovers = f"{self.leftovers:,} operating system files" if self.leftovers else ""
        unread = counted(self.unread, "unread file") if self.unread else ""
        own = f"{counted(self.own, 'file')} of an output of this command" if self.own else ""
        others = ", ".join(filter(None, [leftovers, unread, own]))
        return f" (only {others})" if others else ""

    @property
    def other_files(self) -> str:
        """How many files have names of no known kind, and the first of them; "" if there are none."""
        return f"{counted(self.others, 'other file')}, such as {self._examples['other']}" if self.others else ""

    def log(self) -> None:
        """Logs what was skipped."""
        name = public_name(self.given)
        if self.leftovers:
            _LOGGER.info(
                f"{name}: {self.leftovers:,} operating system files skipped, such as {self._examples['leftover']}"
            )
        if self.unread:
            example = self._examples["unread"]
            count = counted(self.unread, "unread file")
            _LOGGER.warning(f"{name}: {count}, such as {example}, which is {unread_kind(example)}")
        if self.others and self.found:
            _LOGGER.info(f"{name}: {self.other_files}, not read (for other file types give a glob)")
        if self.marked_lists:
            _LOGGER.info(
                f"{name}: {counted(self.marked_lists, 'list')} skipped because the name or folder begins with _ or a "
                f"dot, such as {self._examples['marked']}"
            )
        if self.unread_lists:
            _LOGGER.info(
                f"{name}: its images are captioned; {counted(self.unread_lists, 'list')} next to them not read, "
                f"such as {self._examples['list']} (to read lists, give them as --input)"
            )


def is_glob_of_lists(given: str) -> bool:
    """Whether a glob asks for lists: `exp/**/*.parquet`, `l/*.csv.gz`."""
    return is_glob(given) and is_list(given)


class _Kind(enum.Enum):
    """What a file is, as far as its name and the input tell."""

    IMAGE = enum.auto()
    LIST = enum.auto()
    TABLE = enum.auto()  # a list, unless there are images
    TEXT = enum.auto()  # a list, unless there are images or tables
    MARK = enum.auto()  # an image, unless there are tables and no other images
    UNREADABLE = enum.auto()
    NOTHING = enum.auto()


def _kind_of(stored: StoredObject, contents: Contents) -> _Kind:
    """The kind of a file; `contents` counts what is left out."""
    uri = stored.uri
    if contents.is_leftover(uri) or contents.is_own(uri):
        return _Kind.NOTHING
    if stored.error is not None:
        return _Kind.UNREADABLE
    if is_glob_of_lists(contents.given):
        return _Kind.NOTHING if contents.is_mark(uri, by_name=False) else _Kind.LIST
    if is_image_name(uri) or is_tar(uri) or uri == contents.own_name:
        return _Kind.IMAGE
    if unread_kind(uri):
        contents.add_unread(uri)
        return _Kind.NOTHING
    if is_table(uri):
        return _Kind.NOTHING if contents.is_mark(uri) else _Kind.TABLE
    if plain_name(uri).endswith(".txt"):
        return _Kind.TEXT
    if not is_glob(contents.given):
        contents.add_other(uri)
        return _Kind.NOTHING
    return _Kind.MARK if contents.is_mark(uri) else _Kind.IMAGE


def examined(listed: Iterator[StoredObject], contents: Contents) -> Iterator[tuple[StoredObject, bool]]:
    """The images and tars among what was listed; or, if there is neither, the lists. True marks a list.

    A glob may name any file, but what Spark writes beside lists makes no images of them. Lists that lie beside images
    are counted, and not read.
    """
    tables: list[StoredObject] = []
    texts: list[StoredObject] = []
    marks: list[StoredObject] = []
    undecided = {_Kind.TABLE: tables, _Kind.TEXT: texts, _Kind.MARK: marks}
    has_images = False
    for stored in listed:
        kind = _kind_of(stored, contents)
        if kind in (_Kind.IMAGE, _Kind.LIST):
            has_images = has_images or kind is _Kind.IMAGE
            contents.found += 1
            yield stored, kind is _Kind.LIST
        elif kind is _Kind.UNREADABLE:
            yield stored, False
        elif kind in undecided and not (kind is _Kind.TEXT and has_images):  # a folder of images may have many captions
            undecided[kind].append(stored)
    if has_images or (marks and not tables):
        contents.found += len(marks)
        yield from ((stored, False) for stored in marks)
        for stored in tables:
            contents.add_unread_list(stored.uri)
    else:
        lists = tables or texts
        contents.found += len(lists)
        yield from ((stored, True) for stored in lists)


def partitions_of(uri: str) -> Mapping[str, str | None]:
    """The columns that the folders of a list name, as Hive writes them: `exp/date=2024-05-06/part-0.parquet`."""
    segments = (segment.partition("=") for segment in uri.split("/")[:-1])
    values = {key: urllib.parse.unquote(value) for key, equals, value in segments if equals and key}
    return {key: None if value == _NO_PARTITION else value for key, value in values.items()}
