"""The folder that an export writes: it appears complete or not at all, and nothing is replaced."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator

from beam_job.results.export.options import ExportError


@contextlib.contextmanager
def new_folder(to: str) -> Iterator[str]:
    """Yields a temporary folder whose content is at `to` after this block; it is removed if the block fails.

    The block may remove the folder itself where there is nothing to export. An empty folder that exists, which may be a
    mount point or a link to one, is filled; any other `to` appears in one step.

    Raises:
      ExportError: `to` exists and is not an empty folder.
      OSError: it cannot be made.
    """
    to = os.path.realpath(to)
    fills = os.path.isdir(to)
    if os.path.lexists(to) and not (fills and not os.listdir(to)):
        raise ExportError(f"--to={to} exists and is not an empty folder; name a new folder, or remove it first")
    parent = to if fills else os.path.dirname(to)
    os.makedirs(parent, exist_ok=True)
    folder = os.path.join(parent, f".{os.path.basename(to)}.{uuid.uuid4().hex[:8]}.partial")
    os.mkdir(folder)
    try:
        yield folder
        if os.path.exists(folder):
            _publish(folder, to, fills)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(folder: str, to: str, fills: bool) -> None:
    """Moves what was written to its place. Raises ExportError where somebody else has written there meanwhile."""
    if not fills:
        if os.path.lexists(to):  # rename would replace a link or an empty folder
            raise ExportError(f"--to={to} was created by another process during the export; name another folder")
        os.rename(folder, to)
        return
    if os.listdir(to) != [os.path.basename(folder)]:
        raise ExportError(f"--to={to} was written to by another process during the export; name another folder")
    for name in sorted(os.listdir(folder)):
        os.rename(os.path.join(folder, name), os.path.join(to, name))
