"""Tars with images, and what is listed and read in them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from beam_job.inputs.filters import Filters
from beam_job.inputs.tars import list_members
from beam_job.loading.images import FetchedImage, fetch
from beam_job.records import Failure, ImageInput
from beam_job.storage import Allowed, storage_for


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def members(tar: Path, *carried: str) -> pa.RecordBatch:
    [stored] = storage_for(str(tar)).list(str(tar))
    return list_members(stored, carried)


def images(batch: pa.RecordBatch) -> list[ImageInput]:
    own = ["uri", "object_version", "size", "crc32c", "tar_offset", "list_error"]
    return [ImageInput(**row) for row in batch.select(own).to_pylist()]


def read(image: ImageInput) -> bytes:
    fetched = fetch(image, 10.0, Allowed(schemes=("file",), roots=("/",)), Filters())
    assert isinstance(fetched, FetchedImage), fetched
    return fetched.data


def reason(image: ImageInput, stage: str = "fetch") -> str:
    failure = fetch(image, 10.0, Allowed(schemes=("file",), roots=("/",)), Filters())
    assert isinstance(failure, Failure)
    assert failure.stage == stage
    return failure.error_message


def names_in(tar: Path) -> list[str]:
    return [image.uri.partition("#")[2] for image in images(members(tar)) if not image.list_error]
