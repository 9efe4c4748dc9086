"""A model bundle on this machine: where it lies, or fetched from a bucket into the user's cache folder.

A fetched bundle is kept under the checksum of its SHA256SUMS, which names the rest of it, so that a bundle that has
changed at its address is another one, and all processes of a machine share what one of them has fetched.
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
_UNUSED_S = 30 * 86_400.0  # then a fetched bundle is removed, and what a killed process has left


def local_bundle(model: str | None) -> Path:
    """The folder of the bundle that --model names, fetched if it lies elsewhere and is not here yet.

    Raises:
      BundleError: there is no whole bundle, or no place to keep it; a local one is not checked.
      StorageError: its scheme is unknown, or nobody is logged in.
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
        if not _is_whole(kept):
            _fetch(model, checksums, kept)
        os.utime(kept)
        _remove_unused(folder)
    except OSError as error:
        raise BundleError(
            f"the model at {model} cannot be kept on this machine: {error}; XDG_CACHE_HOME may name another folder"
        ) from error
    return kept


def _fetch(model: str, checksums: bytes, kept: Path) -> None:
    """Makes `kept` as a whole or not at all, whoever else does so at the same time."""
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
            if not _is_whole(kept):  # damaged; otherwise another process was first
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


def _is_whole(folder: Path) -> bool:
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
