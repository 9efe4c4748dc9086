"""`correct`: checks a file of corrections and adds it to an output."""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from beam_job.records import now
from beam_job.results.corrections import Correction, corrections_folder, parse_corrections
from beam_job.results.latest_rows import captioned_versions
from beam_job.storage import join, public_name, storage_for
from beam_job.text import counted, printable_lines

_DESCRIPTION = """\
Adds what people have said of captions to an output. FILE has a JSON object a line, with the uri and object_version of
the row in captions/ and a caption, or "bad": true, or "bad": false to take back what was said before:

  {"uri": "/photos/a.jpg", "object_version": "81034-1764000000000000000", "caption": "two dogs run on a beach"}
  {"uri": "/photos/b.jpg", "object_version": "5120-1764000000000000000", "bad": true}

Corrections survive later runs. In `snapshot` and `export` the newest one of an image stands instead of the model's
caption, until the file or object changes; images marked bad are marked in a snapshot and left out of an export. Where
one line is wrong nothing is added, and the same file twice adds nothing.
"""
_TOLD = 20
_STORED = re.compile(r"([0-9TZ]+)-([0-9a-f]+)\.jsonl")


class CorrectionsError(ValueError):
    """A file of corrections cannot be added; the message has a line for each line of it that is wrong."""


@dataclass(frozen=True)
class Added:
    """What a call of `correct` came to.

    Attributes:
      corrections: those of the file.
      outdated: how many of them speak of a version that is not the newest captioned one; they change nothing now.
      added_before: when the same corrections had been added, if they had; then nothing was added.
    """

    corrections: int
    outdated: int
    added_before: str | None = None


def add_corrections(output: str, file: str) -> Added:
    """Adds the corrections of `file` to an output.

    Args:
      output: of the job.
      file: JSON lines as `beam_job.results.corrections` has them; local or gs://.

    Raises:
      CorrectionsError: a line is wrong, or there is none; nothing was added.
      StorageError: something cannot be read or written.
    """
    content, _ = storage_for(file).read(file)
    corrections, wrong = parse_corrections(content)
    versions = captioned_versions(output, {said.uri for said in corrections.values()})
    wrong |= _strangers(corrections, versions, output)
    if wrong:
        raise CorrectionsError(_told(file, wrong))
    if not corrections:
        raise CorrectionsError(f"{file} holds no correction")
    outdated = sum(versions[said.uri][-1] != said.key[1] for said in corrections.values())
    before = _store(output, corrections.values())
    return Added(len(corrections), outdated, before)


def _strangers(corrections: Mapping[int, Correction], versions: Mapping[str, list[str]], output: str) -> dict[int, str]:
    """What is wrong with corrections of images that the output does not know, by line."""
    wrong = {}
    for number, said in corrections.items():
        name = repr(public_name(said.uri))
        if said.uri not in versions:
            wrong[number] = f"no run has captioned uri {name} into {output}; is it the right --output?"
        elif said.key[1] not in versions[said.uri]:
            newest = versions[said.uri][-1]
            wrong[number] = (
                f"object_version {said.object_version!r} of {name} was never captioned; the newest is {newest!r}"
            )
    return wrong


def _told(file: str, wrong: Mapping[int, str]) -> str:
    lines = [f"line {number}: {reason}" for number, reason in sorted(wrong.items())]
    more = [f"and {len(lines) - _TOLD:,} more"] if len(lines) > _TOLD else []
    return "\n  ".join(
        [f"{counted(len(lines), 'line')} of {file} cannot be added; nothing was:", *lines[:_TOLD], *more]
    )


def _store(output: str, corrections: Iterable[Correction]) -> str | None:
    """Keeps them in a file named by time and content; where the same stand already, the time at which they came."""
    storage, folder = storage_for(output), corrections_folder(output)
    content = "".join(f"{said.to_json()}\n" for said in corrections).encode("utf-8")
    checksum = hashlib.sha256(content).hexdigest()[:16]
    for stored in storage.list(folder):
        match = _STORED.fullmatch(stored.uri.split("/")[-1])
        if match and match[2] == checksum:
            return match[1]
    time = now()
    storage.create(join(folder, f"{time:%Y%m%dT%H%M%S}{time.microsecond // 1000:03}Z-{checksum}.jsonl"), content)
    return None


def main(arguments: list[str]) -> int:
    """The command; returns its exit code: 0 added, or added before, 2 refused."""
    parser = argparse.ArgumentParser(
        prog="caption-images correct", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", required=True, metavar="FOLDER", help="of the job")
    parser.add_argument("file", metavar="FILE", help="JSON lines, such as the review page offers for download")
    args = parser.parse_args(arguments)
    try:
        added = add_corrections(args.output, args.file)
    except CorrectionsError as error:
        print(printable_lines(f"caption-images: {error}"), file=sys.stderr)
        return 2
    if added.added_before:
        print(f"these {counted(added.corrections, 'correction')} were added at {added.added_before}; nothing changed")
        return 0
    print(f"{counted(added.corrections, 'correction')} added to {corrections_folder(args.output)}")
    if added.outdated:
        print(f"{added.outdated:,} of an earlier version of the image: the model's newer caption stands")
    return 0
