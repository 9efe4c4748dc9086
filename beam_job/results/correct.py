"""`correct`: checks a file of corrections and adds it to an output."""

from __future__ import annotations

import hashlib
import posixpath
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from beam_job.records import now
from beam_job.results.arguments import OutputParser, refuse_wrong_usage
from beam_job.results.corrections import (
    Correction,
    corrections_files,
    corrections_folder,
    current_corrections,
    parse_corrections,
    stored_corrections,
)
from beam_job.results.latest_rows import captioned_versions
from beam_job.storage import join, public_name, storage_for
from beam_job.storage.versions import is_same_version
from beam_job.text import counted, printable_lines

_DESCRIPTION = """\
Adds people's corrections of captions to an output. FILE has one JSON object per line, with the uri and object_version
of the row in captions/, and a caption, "bad": true, or "bad": false to withdraw an earlier correction:

  {"uri": "/photos/a.jpg", "object_version": "81034-1764000000000000000", "caption": "two dogs run on a beach"}
  {"uri": "/photos/b.jpg", "object_version": "5120-1764000000000000000", "bad": true}

Corrections survive later runs. In `snapshot` and `export` the newest correction of an image replaces the model's
caption until the file or object changes; images marked bad are marked in a snapshot and left out of an export. If any
line is invalid, nothing is added. Corrections that are already in effect are not added again.
"""
_SHOWN = 20
_STORED = re.compile(r"(\d{8}T\d{9}Z)-[0-9a-f]+\.jsonl")


class CorrectionsError(ValueError):
    """A file of corrections cannot be added; the message has a line for each wrong line of the file."""


@dataclass(frozen=True)
class Added:
    """The result of `add_corrections`.

    Attributes:
      corrections: number of corrections in the file.
      outdated: corrections of a version that is not the newest captioned one; they change nothing now.
      changed: whether the file was added; False where all its corrections are in force already.
    """

    corrections: int
    outdated: int
    changed: bool


def add_corrections(output: str, file: str) -> Added:
    """Adds the corrections of `file` to an output.

    Args:
      output: the job's output folder.
      file: JSON lines as `beam_job.results.corrections` describes them; local or gs://.

    Raises:
      CorrectionsError: a line is wrong, or there is none; nothing was added.
      StorageError: something cannot be read or written.
    """
    content, _ = storage_for(file).read(file)
    corrections, wrong = parse_corrections(content, file)
    versions, left_out = captioned_versions(output, {correction.uri for correction in corrections.values()})
    wrong |= _unknown_images(corrections, versions, output)
    if wrong:
        raise CorrectionsError(_format_errors(file, wrong, left_out))
    if not corrections:
        raise CorrectionsError(f"{file} holds no correction")
    outdated = sum(not is_same_version(versions[one.uri][-1], one.key[1]) for one in corrections.values())
    return Added(len(corrections), outdated, _store(output, list(corrections.values())))


def _unknown_images(
    corrections: Mapping[int, Correction], versions: Mapping[str, list[str]], output: str
) -> dict[int, str]:
    """The errors of corrections of images or versions that the output does not have, by line."""
    wrong = {}
    for number, correction in corrections.items():
        name = repr(public_name(correction.uri))
        if correction.uri not in versions:
            wrong[number] = f"no run has captioned uri {name} into {output}; is it the right --output?"
        elif not any(is_same_version(version, correction.key[1]) for version in versions[correction.uri]):
            newest = versions[correction.uri][-1]
            wrong[number] = (
                f"object_version {correction.object_version!r} of {name} was never captioned; the newest is {newest!r}"
            )
    return wrong


def _format_errors(file: str, wrong: Mapping[int, str], left_out: Sequence[str]) -> str:
    lines = [f"line {number}: {reason}" for number, reason in sorted(wrong.items())]
    more = [f"and {len(lines) - _SHOWN:,} more"] if len(lines) > _SHOWN else []
    head = f"nothing was added: {counted(len(lines), 'line')} of {file} cannot be used:"
    damaged = [f"left out, which may be why: {line}" for line in left_out[:_SHOWN]]
    return "\n  ".join([head, *lines[:_SHOWN], *more, *damaged])


def _store(output: str, corrections: Sequence[Correction]) -> bool:
    """Stores corrections in a new file, unless all of them are in force already; whether it did."""
    current = current_corrections(output)
    newest = {correction.key: correction for correction in corrections}
    if all(current.get(key) == correction for key, correction in newest.items()):
        return False
    content = stored_corrections(corrections)
    name = f"{_next_time(output)}-{hashlib.sha256(content).hexdigest()[:16]}.jsonl"
    storage_for(output).create(join(corrections_folder(output), name), content)
    return True


def _next_time(output: str) -> str:
    """The present time, or just after the newest stored file's, if a clock is behind: names sort by age."""
    time = now()
    present = f"{time:%Y%m%dT%H%M%S}{time.microsecond // 1000:03}Z"
    names = map(posixpath.basename, corrections_files(output))
    newest = max((match[1] for match in map(_STORED.fullmatch, names) if match), default="")
    if present > newest:
        return present
    return f"{newest[:9]}{int(newest[9:-1]) + 1:09}Z"  # a count that sorts, even past 59.999 seconds


@refuse_wrong_usage
def main(arguments: list[str]) -> int:
    """The command; returns its exit code: 0 added, or in force already, 2 refused."""
    parser = OutputParser("correct", _DESCRIPTION)
    parser.add_argument("file", metavar="FILE", help="JSON lines, such as the review page's download")
    args = parser.parse_args(arguments)
    try:
        added = add_corrections(args.output, args.file)
    except CorrectionsError as error:
        print(printable_lines(f"caption-images: {error}"), file=sys.stderr)
        return 2
    corrections = counted(added.corrections, "correction")
    if not added.changed:
        print(f"nothing changed: {corrections} already in effect")
        return 0
    print(f"{corrections} added to {corrections_folder(args.output)}")
    if added.outdated:
        print(f"{counted(added.outdated, 'correction')} of an earlier version of an image: the newer caption is kept")
    return 0
