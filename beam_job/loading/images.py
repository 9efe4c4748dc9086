"""Turns a URI into bytes and bytes into pixels; a failure is a record, not an exception."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from beam_job.inputs.filters import Filters
from beam_job.inputs.packed import NoBytesError, Place, list_of_row, place_of_row, read_image
from beam_job.inputs.relative import is_absolute
from beam_job.inputs.rows import ListedFailure
from beam_job.inputs.tars import check_is_no_tar, container_of, read_member
from beam_job.loading.decode_pool import DecodePool, DecoderLimitError, DecoderStartError
from beam_job.loading.image_columns import image_columns
from beam_job.records import DecodedImage, Failure, ImageInput
from beam_job.storage import (
    CONTENT,
    LATER,
    OPTIONS,
    Allowed,
    CredentialsError,
    NotAllowedError,
    StorageError,
    TooLargeError,
    UnknownSchemeError,
    storage_for,
)
from model import ImageError
from model.preprocessing import MissingSupportError, TooManyPixelsError


@dataclass(frozen=True)
class FetchedImage:
    """The bytes of an image file, and the version of the object that they are."""

    input: ImageInput
    data: bytes
    object_version: str


def fetch(
    image: ImageInput,
    timeout: float,
    allowed: Allowed,
    filters: Filters,
    on_size: Callable[[int], None] | None = None,
) -> FetchedImage | Failure:
    """Reads the file that `image` names, in the version that was listed where the storage keeps versions.

    Args:
      image: from the plan.
      timeout: seconds for the image, retries included.
      allowed: what may be read; anything else is a failure.
      filters: their sizes are checked here for images of lists, whose sizes are unknown before.
      on_size: called with the bytes that are held, each time that they grow; its errors end the read.

    Raises:
      CredentialsError: nobody is logged in, or no longer; that is no failure of this image.
    """
    if image.list_error is not None:
        known = ListedFailure.from_json(image.list_error)
        version = image.object_version
        return Failure(image.uri, "list", known.error_type, known.message, False, version, retry_when=known.retry_when)
    try:
        data, version = _read(image, timeout, allowed.of(image.is_trusted), filters.max_bytes, on_size)
    except StorageError as error:
        if isinstance(error, TooLargeError) and filters.max_bytes is not None:
            message = f"{error.size:,} bytes are more than --max_bytes={filters.max_bytes}"
            found = error.version or image.object_version
            return Failure(image.uri, "fetch", error.cause, message, False, found, retry_when=error.retry_when)
        return fetch_failure(image, error)
    size = len(data)
    if filters.min_bytes is not None and size < filters.min_bytes:
        message = f"{size:,} bytes are fewer than --min_bytes={filters.min_bytes}"
        return Failure(image.uri, "fetch", "TooSmall", message, False, version, retry_when=OPTIONS)
    return FetchedImage(image, data, version)


def fetch_failure(image: ImageInput, error: StorageError) -> Failure:
    """The failure of an image that could not be read; missing credentials are not its own fault, and are raised."""
    if isinstance(error, CredentialsError):
        raise error
    if isinstance(error, UnknownSchemeError):
        return Failure.of(image.uri, "list", error, image.object_version, OPTIONS)
    stage = "list" if isinstance(error, NotAllowedError) else "fetch"
    return Failure(image.uri, stage, error.cause, str(error), False, image.object_version, retry_when=error.retry_when)


def _read(
    image: ImageInput,
    timeout: float,
    allowed: Allowed,
    max_bytes: int | None,
    on_size: Callable[[int], None] | None,
) -> tuple[bytes, str]:
    if image.parquet_place is not None:
        try:
            return read_image(Place.from_json(image.parquet_place), image.object_version, max_bytes, on_size)
        except NoBytesError:
            if not is_absolute(image.uri) or list_of_row(image.uri) is not None:
                raise
            image = dataclasses.replace(image, object_version=None)  # it was the list's
    if (given := list_of_row(image.uri)) is not None:
        storage_for(given, allowed)  # which checks that it may be read
        return read_image(place_of_row(image.uri), image.object_version, max_bytes, on_size)
    file = container_of(image.uri)
    storage = storage_for(file, allowed)
    if file != image.uri:
        return read_member(storage, image, timeout, max_bytes)
    check_is_no_tar(storage, image.uri)
    return storage.read(
        image.uri,
        image.object_version,
        timeout,
        image.size,
        image.crc32c,
        max_bytes=max_bytes,
        on_size=on_size,
    )


def decode(fetched: FetchedImage, pool: DecodePool, columns: Sequence[str] = ()) -> DecodedImage | Failure:
    """Decodes and scales to uint8[size, size, 3]; `columns` are those of `--image_columns`."""
    try:
        image = pool.load(fetched.data)
    except (ImageError, DecoderStartError) as error:
        return Failure.of(fetched.input.uri, "decode", error, fetched.object_version, _retry_when(error))
    size = image.width, image.height
    found = image_columns(columns, fetched.data, image.pixels)
    return DecodedImage(fetched.input, image.pixels, *size, fetched.object_version, image_columns=found)


def _retry_when(error: Exception) -> str:
    """When another run should try an image again that could not be decoded."""
    if isinstance(error, (TooManyPixelsError, MissingSupportError)):
        return OPTIONS
    return LATER if isinstance(error, (DecoderLimitError, DecoderStartError)) else CONTENT
