"""The temporary folder of the workers' progress files, and the removal of folders that killed runs have left."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from beam_job.planning.process_identity import ProcessIdentity

_PREFIX = "caption-images-"
_OWNER = "owner.json"  # the process that made the folder


class TemporaryFolderError(OSError):
    """There is no folder for temporary files that can be written; the message says what to do."""


@contextlib.contextmanager
def progress_folder() -> Iterator[str]:
    """Yields a new folder that is removed afterwards; removes those of processes that no longer run.

    Raises:
      TemporaryFolderError: it cannot be made.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        (folder / _OWNER).write_text(json.dumps(dataclasses.asdict(ProcessIdentity.current())))
    except OSError as error:
        raise TemporaryFolderError(
            f"no temporary folder can be made: {error.strerror or error}; make room there, or name another folder with "
            "the environment variable TMPDIR"
        ) from error
    try:
        _remove_abandoned(folder.parent)
        yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    """Removes folders that this program made, as their file says, in a process of this machine that has ended."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, ValueError, TypeError):  # not one of ours, or another run removes it, too
            owner = ProcessIdentity(**json.loads((folder / _OWNER).read_text()))
            if not folder.is_symlink() and owner.is_alive() is False:
                shutil.rmtree(folder, ignore_errors=True)
