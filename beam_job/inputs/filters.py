"""Selects listed images by name, by size, by random sample and up to a number."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa  # imported where it is used: --help and usage errors need not wait for Arrow

# `**/` as a whole segment matches any number of folders, or none.
_TOKENS = re.compile(r"(?P<folders>(?<![^/])\*\*+/)|(?P<any>\*\*+)|(?P<part>\*)|(?P<one>\?)|\[(?P<set>[!^]?.[^\]]*)\]")
UNREADABLE_FOLDER = "UnreadableFolder"  # the error type of a folder that could not be listed
_HASHES = 1 << 64
_INT64_MAX = (1 << 63) - 1  # of Arrow, which compares sizes and counts rows


@dataclass(frozen=True)
class Filters:
    """Selects images by name and size; the limit is applied last. Invalid values raise ValueError.

    A pattern is matched against the whole URI, or against its last segment if the pattern has no "/": `*` and `?` match
    characters other than "/", `**` matches any, `[abc]` and `[!abc]` match one of a class. Matching is case-sensitive.

    Attributes:
      include: patterns, at least one of which must match; without any, all URIs match.
      exclude: patterns, none of which may match.
      min_bytes: smallest size in bytes. An image of unknown size passes, here and for `max_bytes`: its size is checked
        when it is fetched.
      max_bytes: largest size in bytes.
      limit: largest number of rows; the first ones are taken.
      sample: share of the URIs, chosen by their hash: the same in every run, and a sample of 0.1 is part of one of 0.2.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    min_bytes: int | None = None
    max_bytes: int | None = None
    limit: int | None = None
    sample: float | None = None

    def __post_init__(self) -> None:
        _check_patterns("--include", self.include)
        _check_patterns("--exclude", self.exclude)
        for option, value, least in (
            ("--min_bytes", self.min_bytes, 0),
            ("--max_bytes", self.max_bytes, 0),
            ("--limit", self.limit, 1),
        ):
            if value is not None and value < least:
                raise ValueError(f"{option} must be {least} or more, not {value}")
            if value is not None and value > _INT64_MAX:
                raise ValueError(f"{option} must be at most {_INT64_MAX}, not {value!r:.40}")
        if self.min_bytes is not None and self.max_bytes is not None and self.min_bytes > self.max_bytes:
            raise ValueError(f"--min_bytes must be at most --max_bytes ({self.max_bytes}), not {self.min_bytes}")
        if self.sample is not None and not 0 < self.sample <= 1:  # false for NaN also
            raise ValueError(f"--sample must be above 0 and at most 1, not {self.sample}")

    def apply(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The rows that pass, in their order and with all their columns; empty batches are left out.

        Reads no further than the row that fills `limit`.

        Args:
          batches: with columns `uri` (string) and `size` (int64, bytes), as `lists.read_list` yields them.
        """
        left = self.limit
        for batch in batches:
            passed = self._passed(batch)
            if left is not None:
                passed = passed.slice(0, left)
                left -= passed.num_rows
            if passed.num_rows:
                yield passed
            if left == 0:
                return

    @property
    def text(self) -> str:
        """The options that say so, for messages."""
        given = dataclasses.asdict(self).items()
        values = [(name, value) for name, value in given if value not in (None, ())]
        return ", ".join(f"--{n}={','.join(v) if isinstance(v, tuple) else v}" for n, v in values)

    def _passed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        import pyarrow as pa
        import pyarrow.compute as pc

        folders = _unreadable_folders(batch)
        if folders.num_rows:  # whatever lies in it might be included; it is excluded like what lies in it
            batch = batch.filter(pc.invert(_is_unreadable_folder(batch)))
            others = self._passed(batch)
            if self.exclude:
                inside = folders.set_column(0, "uri", pc.binary_join_element_wise(folders.column("uri"), "", "/"))
                excluded = pc.or_(_matches(folders, self.exclude), _matches(inside, self.exclude))
                folders = folders.filter(pc.invert(excluded))
            return pa.concat_batches([folders, others])
        if self.include:
            batch = batch.filter(_matches(batch, self.include))
        if self.exclude:
            batch = batch.filter(pc.invert(_matches(batch, self.exclude)))
        if self.min_bytes is not None:
            batch = batch.filter(pc.fill_null(pc.greater_equal(batch.column("size"), self.min_bytes), True))
        if self.max_bytes is not None:
            batch = batch.filter(pc.fill_null(pc.less_equal(batch.column("size"), self.max_bytes), True))
        if self.sample is not None:
            bound = int(self.sample * _HASHES)
            drawn = [_hash(uri) < bound for uri in batch.column("uri").to_pylist()]
            batch = batch.filter(pa.array(drawn, pa.bool_()))
        return batch


def _is_unreadable_folder(batch: pa.RecordBatch) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    if "list_error" not in batch.schema.names:
        return pa.array([False] * batch.num_rows, pa.bool_())
    return pc.fill_null(pc.starts_with(batch.column("list_error"), f'["{UNREADABLE_FOLDER}"'), False)


def _unreadable_folders(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.filter(_is_unreadable_folder(batch))


def _hash(uri: str) -> int:
    """A number below 2**64; Python's own hash differs between processes."""
    return int.from_bytes(hashlib.blake2b(uri.encode(), digest_size=8).digest(), "big")


def _matches(batch: pa.RecordBatch, patterns: tuple[str, ...]) -> pa.Array:
    import pyarrow.compute as pc

    return pc.match_substring_regex(batch.column("uri"), "|".join(_regex(pattern) for pattern in patterns))


def _check_patterns(option: str, patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        if not pattern:
            raise ValueError(f"{option} must not be an empty pattern; leave the option out to select all")
        import pyarrow as pa
        import pyarrow.compute as pc

        try:
            pc.match_substring_regex(pa.array([""]), _regex(pattern))
        except pa.ArrowInvalid as error:
            raise ValueError(f"{option} {pattern!r} is not a pattern: {error}") from error


def _regex(pattern: str) -> str:
    """The pattern for RE2, which Arrow uses; it has no lookahead."""
    if "/" not in pattern:
        pattern = "**/" + re.sub(r"\*+", "*", pattern)
    parts, end = [], 0
    for token in _TOKENS.finditer(pattern):
        parts += [re.escape(pattern[end : token.start()]), _token_regex(token)]
        end = token.end()
    return rf"(?s:\A{''.join(parts)}{re.escape(pattern[end:])}\z)"


def _token_regex(token: re.Match[str]) -> str:
    kind = token.lastgroup
    if kind == "set":
        return _class_regex(token["set"])
    return {"folders": "(?:.*/)?", "any": ".*", "part": "[^/]*", "one": "[^/]"}[str(kind)]


def _class_regex(characters: str) -> str:
    """A class of characters, which never matches a slash."""
    negated = len(characters) > 1 and characters[0] in "!^"
    listed = (characters[1:] if negated else characters).replace("/", "")
    inner = re.escape(listed[1:-1]).replace(r"\-", "-")  # within, a hyphen makes a range
    listed = re.escape(listed[:1]) + inner + re.escape(listed[1:][-1:])
    return f"[^/{listed}]" if negated else f"[{listed}]"
