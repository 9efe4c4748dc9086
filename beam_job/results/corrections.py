r"""People's corrections of captions: the format of their file, where they are kept, and how they change rows.

A corrections file is JSON lines in UTF-8: one object a line; blank lines are ignored.

    {"uri": "/photos/a.jpg", "object_version": "81034-1764000000000000000", "caption": "two dogs run on a beach"}
    {"uri": "/photos/b.jpg", "object_version": "5120-1764000000000000000", "bad": true}
    {"uri": "/photos/c.jpg", "object_version": "6007-1764000000000000000", "bad": false}

- `uri` and `object_version` are copied exactly from the image's row in `captions/`; `object_version` is null where the
  row has none. Both are required.
- Either `caption`, one line of text of at most 2,000 characters without control characters, which replaces the model's;
  or `bad`: true for an image that is not to be used, false to withdraw an earlier correction.
- Other members are refused. Of two lines for the same uri and object_version the later one counts.
- The first line may be `{"format": 1}`, as in the files that an output keeps.

A correction applies to one version of an image: when the content has changed, the model's caption is used again. The
time of a local file does not count.
"""

from __future__ import annotations

import dataclasses
import json
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from beam_job.planning.damage import FORMAT, check_format
from beam_job.results.latest_rows import LatestRows, read_rows
from beam_job.storage import StorageError, join, public_name, storage_for
from beam_job.storage.version_columns import content_versions, listed_versions
from beam_job.storage.versions import content_version, listed_version_of

EDITED, BAD = "edited", "bad"
_MEMBERS = ("uri", "object_version", "caption", "bad")
_LONGEST = 2_000
_FORM = 'write {"uri": ..., "object_version": ..., "caption": ...}, or "bad": true instead of the caption'


class CorrectionError(ValueError):
    """A line is not a valid correction; the message quotes it and says what to write instead."""


@dataclass(frozen=True)
class Correction:
    """A person's correction of the caption of one version of an image.

    Attributes:
      uri: as in `captions/`.
      object_version: as in `captions/`; None where the row has none.
      caption: replaces the model's; None for a correction by `bad`.
      bad: whether the image is not to be used. Without a caption and with `bad` False, an earlier correction is
        withdrawn.
    """

    uri: str
    object_version: str | None
    caption: str | None = None
    bad: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.uri, str) or not self.uri:
            raise CorrectionError(f"uri is {_shown(self.uri)}; copy it from the row in captions/")
        if self.object_version is not None and not isinstance(self.object_version, str):
            raise CorrectionError(f"object_version is {_shown(self.object_version)}; copy it as text from captions/")
        if not isinstance(self.bad, bool):
            raise CorrectionError(f"bad is {_shown(self.bad)}; write true or false")
        if self.caption is not None:
            _check_caption(self.caption)
        for text in (self.uri, self.object_version or "", self.caption or ""):
            if any(unicodedata.category(letter) == "Cs" for letter in text):
                raise CorrectionError(f"{_shown(text)} contains half a character (a lone surrogate); write it as UTF-8")

    @property
    def key(self) -> tuple[str, str]:
        """The image and version that it applies to."""
        return self.uri, self.object_version or ""

    def to_json(self) -> str:
        """The line of a corrections file."""
        members = dataclasses.asdict(self)
        members.pop("caption" if self.caption is None else "bad")
        return json.dumps(members, ensure_ascii=False)


def parse_correction(line: bytes) -> Correction:
    """Parses a line of a corrections file. Raises CorrectionError."""
    try:
        members = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise CorrectionError(
            f"{_shown(line.decode('utf-8', 'backslashreplace'))} is not JSON in UTF-8 ({error}); {_FORM}"
        ) from error
    if not isinstance(members, dict):
        raise CorrectionError(f"{_shown(members)} is not an object; {_FORM}")
    for name in members:
        if name not in _MEMBERS:
            raise CorrectionError(f"{_shown(name)} is not a member of a correction; {_FORM}")
    for name in ("uri", "object_version"):
        if name not in members:
            raise CorrectionError(f"{name} is missing; copy it from the row in captions/")
    if (members.get("caption") is None) == (members.get("bad") is None):
        raise CorrectionError(f"it needs either caption or bad, and not both; {_FORM}")
    return Correction(**{name: value for name, value in members.items() if value is not None or name in _MEMBERS[:2]})


def parse_corrections(content: bytes, name: str) -> tuple[dict[int, Correction], dict[int, str]]:
    """The corrections of the file `name`, and the errors of its other lines, by line numbers from 1.

    Raises:
      NewerFormatError: a newer version wrote it.
    """
    good: dict[int, Correction] = {}
    wrong: dict[int, str] = {}
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip() or (number == 1 and _is_format(line, name)):
            continue
        try:
            good[number] = parse_correction(line)
        except CorrectionError as error:
            wrong[number] = str(error)
    return good, wrong


def stored_corrections(corrections: Sequence[Correction]) -> bytes:
    """The content of a file that an output keeps."""
    lines = [json.dumps({"format": FORMAT}), *(correction.to_json() for correction in corrections)]
    return "".join(f"{line}\n" for line in lines).encode("utf-8")


def _is_format(line: bytes, name: str) -> bool:
    """Whether a line says the format of its file. Raises NewerFormatError."""
    try:
        members = json.loads(line.decode("utf-8-sig"))
        if not isinstance(members, dict) or "format" not in members or "uri" in members:
            return False
        check_format(name, members["format"])
    except (ValueError, RecursionError):  # reported as a wrong line
        return False
    return True


def corrections_folder(output: str) -> str:
    """The folder of an output's corrections: `TIME-CHECKSUM.jsonl`, one file for each call of `correct`."""
    return join(output, "corrections")


def corrections_files(output: str) -> list[str]:
    """The files of an output's corrections, the oldest first."""
    stored = storage_for(output).list(corrections_folder(output))
    return sorted(file.uri for file in stored if file.uri.endswith(".jsonl"))


def current_corrections(output: str) -> dict[tuple[str, str], Correction]:
    """The newest correction of each image and version, by `Correction.key`; withdrawn ones too.

    Raises:
      StorageError: a file cannot be read, or holds something else; without it, people's words would be lost silently.
    """
    storage = storage_for(output)
    newest: dict[tuple[str, str], Correction] = {}
    for uri in corrections_files(output):
        content, _ = storage.read(uri)
        good, wrong = parse_corrections(content, uri)
        for number, reason in wrong.items():
            raise StorageError(
                f"{uri}, line {number}: {reason}; correct the line, or remove the file to drop its corrections"
            )
        if not good:
            raise StorageError(f"{uri} is damaged (it is empty); restore it, or remove it to drop its corrections")
        for correction in good.values():
            newest.pop(correction.key, None)  # the order is that of the corrections
            newest[correction.key] = correction
    return newest


def correction_keys(uri: str, version: str) -> tuple[tuple[str, str], ...]:
    """What identifies an image's content for corrections, the surest first."""
    return tuple(dict.fromkeys([(uri, content_version(version)), (uri, listed_version_of(version))]))


def read_corrections(output: str) -> pa.Table:
    """The corrections that apply now: (key, caption, bad), each key once. Raises StorageError."""
    applied = {key: one for one in current_corrections(output).values() for key in correction_keys(*one.key)}
    return _table({key: one for key, one in applied.items() if one.bad or one.caption is not None})


@dataclass(frozen=True)
class AppliedCorrections:
    """The corrections in force, compared with the current captions.

    Attributes:
      edited: captions that a person has written.
      bad: captions of images that are not to be used.
      outdated: URIs whose correction does not apply, since the present caption is of other content.
    """

    edited: int = 0
    bad: int = 0
    outdated: tuple[str, ...] = ()


def apply_corrections(output: str, latest: LatestRows) -> AppliedCorrections:
    """Compares the corrections in force with the current captions.

    Raises:
      StorageError: the corrections or a file of captions cannot be read.
    """
    uris = {one.uri for one in current_corrections(output).values() if one.bad or one.caption is not None}
    if not uris:
        return AppliedCorrections()
    corrections = read_corrections(output)
    kinds: dict[str, str] = {}
    for part in pc.unique(latest.captions["part"]).to_pylist():
        rows = corrected(read_rows(latest.caption_parts, latest.captions, part), corrections)
        rows = rows.filter(rows["correction"].is_valid())
        kinds |= zip(rows["uri"].to_pylist(), rows["correction"].to_pylist(), strict=True)
    counts = Counter(kinds.values())
    return AppliedCorrections(counts[EDITED], counts[BAD], tuple(sorted(uris - kinds.keys())))


def corrected(rows: pa.Table, corrections: pa.Table) -> pa.Table:
    """Applies corrections to rows of `captions/`; the new column `correction` is `edited`, `bad`, or null.

    An edited row has the person's caption as its only one and no score, since that was of the model's words. A bad row
    keeps the model's caption.
    """
    version = pc.fill_null(rows["object_version"].cast(pa.string()), "")
    positions = pc.coalesce(
        *(
            pc.index_in(
                pc.binary_join_element_wise(rows["uri"].cast(pa.string()), known, "\0"),
                value_set=corrections["key"].combine_chunks(),
            )
            for known in (content_versions(version), listed_versions(version))
        )
    ).combine_chunks()
    caption = corrections["caption"].take(positions).combine_chunks()
    bad = pc.fill_null(corrections["bad"].take(positions), False).combine_chunks()
    edited = pc.is_valid(caption)
    kind = pc.if_else(edited, EDITED, pc.if_else(bad, BAD, pa.scalar(None, pa.string())))
    one = pa.ListArray.from_arrays(pa.array(range(rows.num_rows + 1), pa.int32()), caption)
    for name, instead in (("caption", caption), ("score", None), ("captions", one), ("scores", None)):
        column = rows.schema.get_field_index(name)
        if column >= 0:
            field = rows.schema.field(column)
            value = pa.nulls(rows.num_rows, field.type) if instead is None else instead.cast(field.type)
            rows = rows.set_column(column, field, pc.if_else(edited, value, rows[name].combine_chunks()))
    return rows.append_column("correction", kind)


def _table(corrections: Mapping[tuple[str, str], Correction]) -> pa.Table:
    return pa.table(
        {
            "key": pa.array(["\0".join(key) for key in corrections], pa.string()),
            "caption": pa.array([correction.caption for correction in corrections.values()], pa.string()),
            "bad": pa.array([correction.bad for correction in corrections.values()], pa.bool_()),
        }
    )


def _check_caption(caption: object) -> None:
    if not isinstance(caption, str) or not caption.strip():
        raise CorrectionError(f"caption is {_shown(caption)}; write a text, or bad: true instead of it")
    if len(caption) > _LONGEST:
        raise CorrectionError(f"caption has {len(caption):,} characters; write at most {_LONGEST:,}")
    for letter in caption:
        if unicodedata.category(letter) in ("Cc", "Zl", "Zp"):
            raise CorrectionError(f"caption holds {letter!r}; write one line without control characters")


def _shown(value: object) -> str:
    """A value for a message: on one line, and shortened."""
    text = repr(public_name(value) if isinstance(value, str) else value)
    return text if len(text) <= 80 else f"{text[:77]}..."
