"""Writes bundles, whose format `model.bundle` describes, without ever losing an earlier bundle."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save as safetensors_bytes

from model.bundle import (
    CARD,
    CHECKED,
    CHECKSUMS,
    CONFIG,
    VOCABULARY,
    WEIGHTS,
    BundleError,
    check_bundle,
    read_checksums,
    sha256_of,
)

if TYPE_CHECKING:
    from model.captioner import Captioner

# Arrays of an 8-bit backbone that stay float32: rounded to float16, the backbone's sums would no longer be integers.
_KEPT_FLOAT32 = ("/step", "/bias")


def save_bundle(folder: Path, captioner: Captioner, card: str, dtype: str = "float16") -> str:
    """Writes a bundle and returns its version.

    The files are written to a temporary folder beside `folder`, which is then renamed: readers find either the previous
    bundle or the new one, and an interrupted or failed write leaves the previous one in place.

    Args:
      folder: created, with its parents, if it does not exist. An existing bundle is replaced.
      captioner: the captioner to save.
      card: the text of MODEL_CARD.md.
      dtype: of the weights, "float16" or "float32".

    Raises:
      BundleError: `folder` holds something other than a bundle (`check_replaceable`).
      OSError: the files cannot be written.
    """
    check_replaceable(folder)
    folder = folder.resolve()  # a link is kept: the folder that it points to is replaced
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", suffix=".partial", dir=folder.parent) as temporary:
            new = Path(temporary, "new")
            new.mkdir()
            _write_files(new, captioner, card, dtype)
            version = check_bundle(new)
            _replace_folder(folder, new, previous=Path(temporary, "previous"))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error
    return version


def check_replaceable(folder: Path) -> None:
    """Checks that a bundle may be written to `folder` without losing any other file.

    Raises:
      BundleError: `folder` exists and is neither empty nor a bundle, or it contains files that no bundle has.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise BundleError(f"{folder} exists and is not a folder; choose another --output")
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        return
    foreign = [name for name in names if name not in (*CHECKED, CHECKSUMS, CARD)]
    if foreign:
        raise BundleError(
            f"{folder} exists and contains {foreign[0]!r:.80}, which is not part of a bundle; choose another --output"
        )
    if not _names_our_files(folder):
        raise BundleError(f"{folder} exists and is not a bundle; choose another --output")


def _names_our_files(folder: Path) -> bool:
    """Whether the folder's SHA256SUMS lists exactly the files of a bundle, intact or not."""
    try:
        return set(read_checksums(folder)) == set(CHECKED)
    except (BundleError, OSError):
        return False


def _write_files(folder: Path, captioner: Captioner, card: str, dtype: str) -> None:
    from model.network import named_variables

    config = json.dumps(dataclasses.asdict(captioner.config), indent=2) + "\n"
    (folder / CONFIG).write_text(config, encoding="utf-8")
    captioner.vocabulary.save(folder / VOCABULARY)
    kept = _KEPT_FLOAT32 if captioner.config.int8 else ()
    arrays = {
        name: np.asarray(value).astype("float32" if name.endswith(kept) else dtype)
        for name, value in named_variables(captioner.encoder, captioner.decoder).items()
    }
    (folder / WEIGHTS).write_bytes(safetensors_bytes(arrays))
    (folder / CARD).write_text(card, encoding="utf-8")
    checksums = "".join(f"{sha256_of(folder / name)}  {name}\n" for name in CHECKED)
    (folder / CHECKSUMS).write_text(checksums, encoding="utf-8")


def _replace_folder(folder: Path, new: Path, previous: Path) -> None:
    """Renames `new` to `folder`. Python offers no atomic exchange of two folders, so it takes two renames."""
    if not folder.exists():
        new.rename(folder)
        return
    folder.rename(previous)
    try:
        new.rename(folder)
    except BaseException:
        previous.rename(folder)
        raise
