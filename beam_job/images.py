"""URI to bytes, bytes to pixels; a failure on the way is a record, not an exception."""

from __future__ import annotations

from dataclasses import dataclass

from beam_job.records import DecodedImage, Failure, ImageInput
from beam_job.storage import StorageError, UnknownSchemeError, storage_for
from beam_job.tars import check_is_no_tar, container_of, read_member
from model import ImageError, load_image


@dataclass(frozen=True)
class FetchedImage:
    """The bytes of an image file and the version of the object that they are."""

    input: ImageInput
    data: bytes
    object_version: str


def fetch(image: ImageInput, timeout: float) -> FetchedImage | Failure:
    """Reads the file that `image` names, in the version that was listed where the storage keeps versions.

    `timeout`: seconds for the image, retries included.
    """
    try:
        data, version = _read(image, timeout)
    except UnknownSchemeError as error:
        return Failure.of(image.uri, "list", error, image.object_version)
    except StorageError as error:
        return Failure(image.uri, "fetch", error.cause, str(error), error.transient, image.object_version)
    return FetchedImage(image, data, version)


def _read(image: ImageInput, timeout: float) -> tuple[bytes, str]:
    if container_of(image.uri) != image.uri:
        return read_member(image, timeout)
    check_is_no_tar(image.uri)
    return storage_for(image.uri).read(image.uri, image.object_version, timeout, image.size, image.crc32c)


def decode(fetched: FetchedImage, size: int) -> DecodedImage | Failure:
    """Decodes and scales to uint8[size, size, 3]."""
    try:
        image = load_image(fetched.data, size)
    except ImageError as error:
        return Failure.of(fetched.input.uri, "decode", error, fetched.object_version)
    return DecodedImage(fetched.input, image.pixels, image.width, image.height, fetched.object_version)
