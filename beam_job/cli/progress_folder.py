"""The temporary folder of the workers' progress files, and the removal of folders that killed runs have left."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from beam_job.cli.host_limits import HostLimitError
from beam_job.planning.process_identity import ProcessIdentity

_PREFIX = "caption-images-"
_OWNER = "owner.json"  # the process that made the folder


@contextlib.contextmanager
def progress_folder() -> Iterator[str]:
    """Yields a new folder that is removed afterwards; removes those of processes that no longer run.

    Raises:
      HostLimitError: it cannot be made.
    """
    folder = _make_folder()
    try:
        _remove_abandoned(folder.parent)
        yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make_folder() -> Path:
    folder = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        (folder / _OWNER).write_text(json.dumps(dataclasses.asdict(ProcessIdentity.current())))
        return folder
    except OSError as error:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
        raise HostLimitError(
            f"no temporary folder can be made: {error.strerror or error}; make room there, or name another folder with "
            "the environment variable TMPDIR"
        ) from error


def _remove_abandoned(parent: Path) -> None:
    """Removes folders that this program made, as their file says, in a process of this user that has ended here."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, ValueError, TypeError):  # not one of ours, or another run removes it, too
            owner = ProcessIdentity(**json.loads((folder / _OWNER).read_text()))
            if _is_own_folder(folder) and owner.is_alive() is False:
                shutil.rmtree(folder, ignore_errors=True)


def _is_own_folder(path: Path) -> bool:
    """Whether it is a folder of this user, not a link; anybody may write to a system's temporary folder."""
    status = path.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
