"""Checks whether the folder or bucket of the images still exists, when no image of a shard could be read."""

from __future__ import annotations

import os
from collections.abc import Iterable

from beam_job.inputs.tars import container_of
from beam_job.storage import OPTIONS, Allowed, StorageError, bucket_of, real_path, scheme_of, storage_for
from beam_job.storage.responses import WEB, public_name


class InputGoneError(RuntimeError):
    """The folder or bucket of the images cannot be read any more; the message names it."""


def has_root(uri: str) -> bool:
    """Whether an image lies in a folder or bucket that can be asked; a web server has none."""
    return scheme_of(uri) not in WEB


def check_roots(uris: Iterable[str], allowed: Allowed) -> None:
    """Returns if the folders and buckets that hold these images are there.

    Args:
      uris: of images that could not be read.
      allowed: its folders are those that the user has named.

    Raises:
      InputGoneError: one is gone, cannot be read, or is an empty folder, as the place of an unmounted disk is.
    """
    files = {container_of(uri) for uri in uris}
    for root in sorted(_folders(files, allowed.roots)):
        _check_folder(root)
    for bucket in sorted({bucket_of(uri) for uri in files if scheme_of(uri) not in ("file", *WEB)}):
        _check_bucket(bucket)


def _folders(files: Iterable[str], roots: tuple[str, ...]) -> set[str]:
    """Those of the roots that hold one of the files; for a root that is a file itself, its folder."""
    found = set()
    for uri in files:
        if scheme_of(uri) != "file" or "\0" in uri:
            continue
        path = real_path(uri)
        for root in roots:
            if path == root:
                found.add(os.path.dirname(root))
            elif path.startswith(root.rstrip(os.sep) + os.sep):
                found.add(root)
    return found


def _check_folder(folder: str) -> None:
    try:
        with os.scandir(folder) as entries:
            if next(entries, None) is None:
                raise _gone(f"the folder {folder} is empty (is its disk mounted?)")
    except OSError as error:
        reason = error.strerror or str(error)
        raise _gone(f"the folder {folder} cannot be read either: {reason}") from error


def _check_bucket(bucket: str) -> None:
    name = public_name(bucket)
    try:
        found = storage_for(bucket).is_folder(f"{bucket}/")
    except StorageError as error:
        if error.retry_when == OPTIONS:  # whoever may read objects need not be allowed to list them
            return
        raise _gone(f"{name} cannot be read either: {error}") from error
    if not found:
        raise _gone(f"{name} is empty")


def _gone(what: str) -> InputGoneError:
    return InputGoneError(
        f"no image of a shard could be read, and {what}; fix that, or ignore failures with --max_failure_ratio=1"
    )
