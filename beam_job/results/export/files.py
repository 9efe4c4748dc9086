"""Writes the image files of an export."""

from __future__ import annotations

import os

from beam_job.results.export.images import FetchedImage


def put_image(image: FetchedImage, path: str) -> None:
    """Writes or links the image at `path`. Raises FileExistsError instead of replacing a file."""
    if image.data is None:
        os.symlink(str(image.path), path)
        return
    with open(path, "xb") as file:
        file.write(image.data)
