"""Writes each caption to a text file beside its image, as trainers of diffusion models read it (kohya: `.caption`)."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable

import pyarrow as pa

from beam_job.records import Failure
from beam_job.results.export.files import put_image
from beam_job.results.export.images import FetchedImage, ImageFetcher
from beam_job.results.export.names import UnusableNameError, flat_name, name_below


def write_sidecars(
    tables: Iterable[pa.Table], folder: str, images: ImageFetcher, root: str | None, suffix: str, texts_only: bool
) -> int:
    """Writes the captions, one line each; returns their number.

    Args:
      tables: of captions.
      folder: to write to.
      images: fetches the images of the captions.
      root: keep the folders and names below it, so that the export can be copied over it; None for one folder with
        generated, unique names.
      suffix: of the text files.
      texts_only: write no images, and do not read them.
    """
    written = 0
    for table in tables:
        names = [_name(uri, root, suffix, images) for uri in table["uri"].to_pylist()]
        named = table.filter(pa.array([name is not None for name in names], pa.bool_()))
        taken = iter([None] * named.num_rows) if texts_only else images.of(named)
        for row, name, image in zip(named.to_pylist(), filter(None, names), taken, strict=True):
            if image is None and not texts_only:
                continue
            stem, own_suffix = posixpath.splitext(name) if root else (name, None)
            picture = None if image is None else os.path.join(folder, f"{stem}{own_suffix or image.suffix}")
            try:
                _put(os.path.join(folder, f"{stem}{suffix}"), row["caption"], image, picture)
                written += 1
            except (FileExistsError, NotADirectoryError):
                message = f"{row['uri']}: {stem}{suffix} is taken by another image; without --root, names are generated"
                images.left_out.add(Failure(row["uri"], "list", "NameTaken", message, False))
    return written


def _put(text: str, caption: str, image: FetchedImage | None, picture: str | None) -> None:
    """Writes both image and text, or neither. Raises OSError."""
    os.makedirs(os.path.dirname(text), exist_ok=True)
    if image is not None and picture is not None:
        put_image(image, picture)
    try:
        with open(text, "x", encoding="utf-8") as file:
            file.write(" ".join(caption.split()) + "\n")
    except FileExistsError:
        if picture is not None:
            os.unlink(picture)
        raise


def _name(uri: str, root: str | None, suffix: str, images: ImageFetcher) -> str | None:
    """A relative path for the image; None if it is left out."""
    if root is None:
        return flat_name(uri)
    try:
        name = name_below(uri, root)
        if name.endswith(suffix):
            raise UnusableNameError(f"the image itself ends in {suffix}; without --root, names are generated")
    except UnusableNameError as error:
        images.left_out.add(Failure(uri, "list", "UnusableName", f"{uri}: {error}", False))
        return None
    return name
