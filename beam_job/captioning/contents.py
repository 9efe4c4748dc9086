"""The captioner's results of a run by content, in a small database shared by the run's processes on this machine.

The database is a file in the temporary folder, one for each run. If several processes have the same content at the same
time, the first one captions it and the others wait for the result. If that process dies, another one takes over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import enum
import json
import os
import sqlite3
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beam_job.planning.process_identity import ProcessIdentity
from beam_job.records import CaptionedImage, DecodedImage, Failure
from beam_job.storage import StorageError
from model import Caption

_BUSY_SECONDS = 60.0
_UNUSED_S = 7 * 86_400.0  # after which the file of another run is removed, such as one that was never resumed
_TABLE = "CREATE TABLE IF NOT EXISTS contents (key BLOB PRIMARY KEY, owner TEXT, answer TEXT) WITHOUT ROWID"


class Claim(enum.Enum):
    """What to do with a content that has no answer: caption it here, or wait for the process that does."""

    MINE = enum.auto()
    BUSY = enum.auto()


@dataclass(frozen=True)
class Answer:
    """The captioner's answer for a content.

    Attributes:
      uri: of the image that was shown to it.
      outcome: the row of that image.
    """

    uri: str
    outcome: CaptionedImage | Failure

    def of(self, image: DecodedImage, time: datetime.datetime) -> CaptionedImage | Failure:
        """The row of another image with this content."""
        uri, version = image.input.uri, image.object_version
        if isinstance(self.outcome, Failure):
            return dataclasses.replace(self.outcome, uri=uri, object_version=version, failed_at=time)
        size = image.width, image.height
        captions, by_prompt = self.outcome.captions, self.outcome.by_prompt
        return CaptionedImage(uri, captions, *size, version, time, by_prompt, image.image_columns)

    def to_json(self) -> str:
        """The answer without what belongs to the image."""
        if isinstance(self.outcome, Failure):
            failure = self.outcome
            said: dict[str, Any] = {
                "failure": [failure.stage, failure.error_type, failure.error_message, failure.retry_when]
            }
        else:
            said = {
                "captions": [[caption.text, caption.score] for caption in self.outcome.captions],
                "by_prompt": [[caption.text, caption.score] for caption in self.outcome.by_prompt],
            }
        return json.dumps({"uri": self.uri, **said})

    @classmethod
    def from_json(cls, text: str, time: datetime.datetime) -> Answer:
        """What `to_json` wrote."""
        said = json.loads(text)
        uri = said["uri"]
        if "failure" in said:
            stage, error_type, message, retry_when = said["failure"]
            return cls(uri, Failure(uri, stage, error_type, message, False, None, time, retry_when))
        captions, by_prompt = (
            tuple(Caption(words, score) for words, score in said[name]) for name in ("captions", "by_prompt")
        )
        return cls(uri, CaptionedImage(uri, captions, 0, 0, "", time, by_prompt))


class Contents:
    """The contents of a run; only one thread of an engine calls it.

    Args:
      run_id: name of the run.

    Raises:
      StorageError: the file cannot be used; raised by all methods.
    """

    def __init__(self, run_id: str) -> None:
        self._owner = json.dumps(dataclasses.asdict(ProcessIdentity.current()))
        try:
            folder = _folder()
        except OSError as error:
            raise StorageError(_unusable(tempfile.gettempdir(), error)) from error
        self._path = folder / f"{run_id}.sqlite"
        with self._explained():
            _remove_unused(folder, self._path.name)
            self._database = sqlite3.connect(self._path, _BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            # A process that is killed loses nothing; after a power cut the file may, which costs repeated captions.
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=OFF")
            self._database.execute(_TABLE)

    def claim(self, key: bytes, time: datetime.datetime) -> Answer | Claim:
        """The answer to a content, or what to do where there is none.

        Args:
          key: of the content; one that this process is captioning must not be claimed again.
          time: of the answer's row.
        """
        with self._explained():
            cursor = self._database.execute("INSERT OR IGNORE INTO contents VALUES (?, ?, NULL)", (key, self._owner))
            if cursor.rowcount:
                return Claim.MINE
            row = self._database.execute("SELECT owner, answer FROM contents WHERE key = ?", (key,)).fetchone()
            if row is None:  # given up just now
                return Claim.BUSY
            owner, answer = row
            if answer is not None:
                return Answer.from_json(answer, time)
            if owner != self._owner and ProcessIdentity(**json.loads(owner)).is_alive():
                return Claim.BUSY
            given = self._owner, key, owner  # it died, or this process has begun again
            taken = self._database.execute("UPDATE contents SET owner = ? WHERE key = ? AND owner = ?", given)
            return Claim.MINE if taken.rowcount else Claim.BUSY

    def put(self, key: bytes, answer: Answer) -> None:
        """Stores the answer to a content that was claimed; a temporary failure leaves it to the next image with it."""
        failure = answer.outcome
        with self._explained():
            if isinstance(failure, Failure) and failure.transient:
                self._database.execute("DELETE FROM contents WHERE key = ?", (key,))
            else:
                self._database.execute("UPDATE contents SET answer = ? WHERE key = ?", (answer.to_json(), key))

    def close(self) -> None:
        """Closes the file, which stays for the run's other processes."""
        self._database.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StorageError(_unusable(str(self._path), error)) from error


def remove_contents(run_id: str) -> None:
    """Removes the database of a run that has ended."""
    with contextlib.suppress(OSError):
        for path in _folder().glob(f"{run_id}.sqlite*"):
            path.unlink()


def _folder() -> Path:
    """A folder of this user's in the temporary folder.

    Raises:
      OSError: it cannot be made, or others could have written its files.
    """
    folder = Path(tempfile.gettempdir(), f"caption-images-contents-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(f"{folder} is not a folder that this user owns")
    return folder


def _remove_unused(folder: Path, own: str) -> None:
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process has just removed it
            if not path.name.startswith(own) and time.time() - path.stat().st_mtime > _UNUSED_S:
                path.unlink()


def _unusable(path: str, error: Exception) -> str:
    return (
        f"--dedupe=content cannot use the file {path} ({error}); make room there, delete the file, or name another "
        "folder with the environment variable TMPDIR"
    )
