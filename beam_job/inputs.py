"""What `--input` names, as a stream of images: a folder, a glob, a text file of URIs, or one image."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence

from beam_job.records import ImageInput
from beam_job.storage import StorageError, is_glob, storage_for

# A folder is searched for these; a glob or a list is taken at its word.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
LIST_SUFFIX = ".txt"


class InputError(ValueError):
    """There is nothing to caption where the user pointed; the message says what was looked for."""


def find_images(inputs: Sequence[str]) -> Iterator[ImageInput]:
    """The images of all inputs, each URI once, in the order found.

    Raises:
      InputError: one of `inputs` yields nothing, is not there, or has an unknown scheme.
    """
    seen: set[str] = set()
    for given in inputs:
        found = False
        try:
            for image in _images_of(given):
                found = True
                if image.uri not in seen:
                    seen.add(image.uri)
                    yield image
        except StorageError as error:
            raise InputError(f"--input: {error}") from error
        if not found:
            raise InputError(_nothing_at(given))


def _images_of(given: str) -> Iterator[ImageInput]:
    storage = storage_for(given)
    if _suffix(given) == LIST_SUFFIX and not is_glob(given):
        yield from _listed(given)
        return
    only_images = not is_glob(given) and storage.is_folder(given)
    for stored in storage.list(given):
        if not only_images or _suffix(stored.uri) in IMAGE_SUFFIXES:
            yield ImageInput(stored.uri, stored.version)


def _listed(given: str) -> Iterator[ImageInput]:
    """A URI a line, kept as it is; blank lines are skipped, a path without scheme is the caller's."""
    content, _ = storage_for(given).read(given)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"--input: {given} is not a text file in UTF-8 ({error.reason} at byte {error.start})"
        ) from error
    for line in text.splitlines():
        if uri := line.strip():
            yield ImageInput(uri)


def _suffix(uri: str) -> str:
    return posixpath.splitext(uri)[1].lower()


def _nothing_at(given: str) -> str:
    if is_glob(given):
        return f"--input: nothing matches {given}"
    if _suffix(given) == LIST_SUFFIX:
        return f"--input: the list {given} is empty"
    if storage_for(given).is_folder(given):
        return f"--input: the folder {given} holds no images ({', '.join(IMAGE_SUFFIXES)})"
    return f"--input: {given} is not there"
