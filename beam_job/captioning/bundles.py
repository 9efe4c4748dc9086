"""A model bundle on this machine: a local folder, or a copy from a bucket in the user's cache folder.

A copy is kept under the checksum of its SHA256SUMS, which covers all its other files: a bundle that has changed in the
bucket gets a new copy, and all processes of a machine share the same copies.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from pathlib import Path

from beam_job.storage import CredentialsError, StorageError, join, local_path, scheme_of, storage_for
from model import DEFAULT_BUNDLE, BundleError, check_bundle
from model.bundle import CHECKED, CHECKSUMS
from model.file_cache import own_folder

_READ_TIMEOUT_S = 600.0
_UNUSED_S = 30 * 86_400.0  # after which a copy is removed, or the partial one of a killed process


def local_bundle(model: str | None) -> Path:
    """The local folder of the bundle that --model names; a remote bundle is copied unless that was done before.

    Raises:
      BundleError: the remote bundle is missing or damaged, or cannot be kept here. A local one is not checked.
      StorageError: the scheme is unknown, or nobody is logged in.
    """
    if model is None:
        return DEFAULT_BUNDLE
    if scheme_of(model) == "file":
        return Path(local_path(model))
    checksums = _read(model, CHECKSUMS)
    try:
        folder = own_folder() / "bundles"
        folder.mkdir(exist_ok=True)
        kept = folder / hashlib.sha256(checksums).hexdigest()
        if not _is_complete(kept):
            _fetch(model, checksums, kept)
        os.utime(kept)
        _remove_unused(folder)
    except OSError as error:
        raise BundleError(
            f"the model at {model} cannot be kept on this machine: {error}; XDG_CACHE_HOME may name another folder"
        ) from error
    return kept


def _fetch(model: str, checksums: bytes, kept: Path) -> None:
    """Creates `kept` completely or not at all, whatever other processes do at the same time."""
    with tempfile.TemporaryDirectory(dir=kept.parent, suffix=".partial") as partial:
        folder = Path(partial, "bundle")
        folder.mkdir()
        (folder / CHECKSUMS).write_bytes(checksums)
        for name in CHECKED:
            (folder / name).write_bytes(_read(model, name))
        try:
            check_bundle(folder)
        except BundleError as error:
            raise BundleError(str(error).replace(str(folder), model)) from error
        try:
            os.rename(folder, kept)
        except OSError:
            if not _is_complete(kept):  # damaged; otherwise another process was first
                os.rename(kept, Path(partial, "damaged"))
                os.rename(folder, kept)


def _read(model: str, name: str) -> bytes:
    uri = join(model, name)
    try:
        data, _ = storage_for(uri).read(uri, timeout=_READ_TIMEOUT_S)
    except CredentialsError:
        raise
    except StorageError as error:
        raise BundleError(f"no model at {model}: {error}") from error
    return data


def _is_complete(folder: Path) -> bool:
    try:
        check_bundle(folder)
    except BundleError:
        return False
    return True


def _remove_unused(folder: Path) -> None:
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process has just removed it
            if time.time() - path.stat().st_mtime > _UNUSED_S:
                shutil.rmtree(path, ignore_errors=True)
