"""The files of a snapshot, and the manifest by which a later one knows which of them it may replace.

`DIR/_SNAPSHOT.json` lists each file that `snapshot` writes, with its size and checksum. It is written before the files,
so a snapshot that is killed leaves none that is not listed; while files are replaced it lists old and new ones. A file
is overwritten or deleted only if it is listed and still has the listed content.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from beam_job.planning.damage import FORMAT, check_format
from beam_job.storage import StorageError, StoredObject, join, local_path, local_uri, scheme_of, storage_for

MANIFEST = "_SNAPSHOT.json"
FOLDERS = ("data", "failures")
_NAME = re.compile(r"(data|failures)/train-\d{5,}-of-\d{5,}\.parquet")
_READ_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class SnapshotFile:
    """A file of a snapshot.

    Attributes:
      name: below the snapshot's folder, such as `data/train-00000-of-00002.parquet`.
      size: bytes.
      sha256: of its content, in hexadecimal digits.
      version: of the stored file; None where it was not known yet when the manifest was written.
    """

    name: str
    size: int
    sha256: str
    version: str | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is not the name of a snapshot's file")

    def matches(self, uri: str, stored: StoredObject) -> bool:
        """Whether the file at `uri`, listed as `stored`, is this one, unchanged."""
        if stored.size != self.size:
            return False
        if stored.version == self.version:
            return True
        content, _ = storage_for(uri).read(uri, timeout=_READ_TIMEOUT_S)
        return hashlib.sha256(content).hexdigest() == self.sha256


class StagedFiles(contextlib.AbstractContextManager["StagedFiles"]):
    """Contents of a snapshot's files, in one nameless temporary file that goes with the process.

    The files of an earlier snapshot are replaced only when all of the new one is here, so that readers see files of
    two snapshots side by side no longer than it takes to copy them.
    """

    def __init__(self) -> None:
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115  # closed by __exit__
        self._offsets: dict[str, int] = {}
        self.files: list[SnapshotFile] = []

    def add(self, name: str, content: bytes) -> None:
        """Keeps the content of a file. Raises StorageError where the temporary folder has no room."""
        self._offsets[name] = self._spool.seek(0, os.SEEK_END)
        try:
            self._spool.write(content)
            self._spool.flush()
        except OSError as error:
            raise StorageError(
                f"the snapshot cannot be staged in {tempfile.gettempdir()}: {error.strerror}; make room there, or set "
                "TMPDIR to another folder"
            ) from error
        self.files.append(SnapshotFile(name, len(content), hashlib.sha256(content).hexdigest()))

    def read(self, file: SnapshotFile) -> bytes:
        """The content of a file."""
        self._spool.seek(self._offsets[file.name])
        return self._spool.read(file.size)

    def __exit__(self, *_: object) -> None:
        self._spool.close()


def check_replaceable(to: str) -> Mapping[str, StoredObject]:
    """Checks that each snapshot file in `to` was written by `snapshot` and is unchanged; returns them by name.

    Raises:
      StorageError: there is another file with a name of ours, the manifest is damaged, or nothing can be read.
    """
    listed = _read_manifest(to)
    present = _present(to)
    for name, stored in present.items():
        uri = join(to, name)
        if not any(file.name == name and file.matches(uri, stored) for file in listed):
            known = any(file.name == name for file in listed)
            reason = "was changed since `snapshot` wrote it" if known else f"is not listed in {join(to, MANIFEST)}"
            raise StorageError(
                f"{uri} {reason}, so it is not overwritten or deleted; move or remove it, or give another --to "
                "(remove snapshots of versions without that list yourself)"
            )
    return present


def replace_snapshot(to: str, staged: StagedFiles) -> None:
    """Replaces the snapshot in `to` by the staged files.

    Raises:
      StorageError: as `check_replaceable`, and where something cannot be written.
    """
    storage = storage_for(to)
    present = check_replaceable(to)
    before = [file for file in _read_manifest(to) if file.name in present]
    _write_manifest(to, [*before, *staged.files])
    for file in staged.files:
        uri, content = join(to, file.name), staged.read(file)
        if file.name in present:
            storage.write(uri, content)
        elif not storage.create(uri, content):
            raise StorageError(f"{uri} was just written by another process; nothing was overwritten, try again")
    for name in present.keys() - {file.name for file in staged.files}:
        storage.delete(join(to, name))
    versions = {name: stored.version for name, stored in _present(to).items()}
    _write_manifest(to, [dataclasses.replace(file, version=versions.get(file.name)) for file in staged.files])


def _present(to: str) -> dict[str, StoredObject]:
    """The files in `to` that have names of a snapshot's files, whoever wrote them."""
    base = local_uri(os.path.abspath(local_path(to))) if scheme_of(to) == "file" else to
    found = {}
    for folder in FOLDERS:
        for stored in storage_for(to).list(join(to, folder)):
            name = stored.uri.removeprefix(join(base, ""))
            if _NAME.fullmatch(name):
                found[name] = stored
    return found


def _read_manifest(to: str) -> list[SnapshotFile]:
    uri = join(to, MANIFEST)
    storage = storage_for(uri)
    if not storage.exists(uri):
        return []
    content, _ = storage.read(uri)
    try:
        manifest = json.loads(content)
        check_format(uri, manifest["format"])
        known = [field.name for field in dataclasses.fields(SnapshotFile)]
        return [
            SnapshotFile(**{name: value for name, value in file.items() if name in known}) for file in manifest["files"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(
            f"{uri} is damaged ({error}), so this command cannot tell which files are its own; give another --to, or "
            f"remove {to} if it holds nothing but a snapshot"
        ) from error


def _write_manifest(to: str, files: Sequence[SnapshotFile]) -> None:
    manifest = {"format": FORMAT, "files": [dataclasses.asdict(file) for file in files]}
    storage_for(to).write(join(to, MANIFEST), (json.dumps(manifest, indent=2) + "\n").encode())
