"""WebDataset tars: what is in them, where it lies, and what becomes of damaged ones."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pytest

from beam_job.inputs.filters import Filters
from beam_job.inputs.listing import InputError, list_images
from beam_job.inputs.lists import ListError
from beam_job.inputs.tars import list_members
from beam_job.loading.images import FetchedImage, fetch
from beam_job.records import Failure, ImageInput
from beam_job.storage import Allowed, storage_for

SAMPLES = {
    "000000001.jpg": b"one",
    "000000001.json": json.dumps({"caption": "a dog", "width": 20, "key": "000000001"}).encode(),
    "000000001.txt": b"a dog",
    "000000002.png": b"two two",
    "000000002.json": json.dumps({"caption": None, "width": 30}).encode(),
    "deep/000000003.part.webp": b"3",
    "notes.md": b"no image",
}


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
    own = ["uri", "object_version", "size", "crc32c", "tar_offset"]
    return [ImageInput(**row) for row in batch.select(own).to_pylist()]


def read(image: ImageInput) -> bytes:
    fetched = fetch(image, 10.0, Allowed(schemes=("file",), roots=("/",)), Filters())
    assert isinstance(fetched, FetchedImage), fetched
    return fetched.data


def reason(image: ImageInput) -> str:
    failure = fetch(image, 10.0, Allowed(schemes=("file",), roots=("/",)), Filters())
    assert isinstance(failure, Failure)
    assert failure.stage == "fetch"
    return failure.error_message


def test_images_are_listed_and_read_where_they_lie(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "00000.tar", SAMPLES)
    listed = images(members(tar))
    assert [image.uri for image in listed] == [
        f"{tar}#000000001.jpg",
        f"{tar}#000000002.png",
        f"{tar}#deep/000000003.part.webp",
    ]
    assert [read(image) for image in listed] == [b"one", b"two two", b"3"]
    assert {image.object_version for image in listed} == {storage_for(str(tar)).stat(str(tar)).version}


def test_fields_of_the_json_are_carried_with_their_types(tmp_path: Path) -> None:
    batch = members(write_tar(tmp_path / "00000.tar", SAMPLES), "width", "caption", "absent")
    assert batch.schema.field("width").type == pa.int64()
    assert batch.select(["caption", "width", "absent"]).to_pylist() == [
        {"caption": "a dog", "width": 20, "absent": None},
        {"caption": None, "width": 30, "absent": None},
        {"caption": None, "width": None, "absent": None},
    ]


def test_a_list_may_name_images_in_tars(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "00000.tar", SAMPLES)
    assert read(ImageInput(f"{tar}#000000002.png")) == b"two two"
    assert reason(ImageInput(f"{tar}#9.jpg")) == f"{tar} holds no image 9.jpg"
    assert "give it as --input" in reason(ImageInput(str(tar)))


def test_an_image_without_bytes(tmp_path: Path) -> None:
    [image] = images(members(write_tar(tmp_path / "x.tar", {"a.jpg": b""})))
    assert read(image) == b""


def test_names_that_are_no_text(tmp_path: Path) -> None:
    [image] = images(members(write_tar(tmp_path / "x.tar", {os.fsdecode(b"caf\xe9.jpg"): b"e"})))
    assert image.uri.endswith("#caf\\xe9.jpg")
    assert read(image) == b"e"


def test_a_tar_that_changed_after_the_listing_is_not_read_at_the_old_places(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "00000.tar", SAMPLES)
    listed = images(members(tar))
    write_tar(tar, {"other.jpg": b"x" * 5000, **SAMPLES})
    assert {"has changed since it was listed" in reason(image) for image in listed} == {True}


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        pytest.param(lambda whole: whole[:1300], 1, id="cut in a header"),
        pytest.param(lambda whole: whole[:1024] + b"\xff" * 512 + whole[1536:], 1, id="second header overwritten"),
        pytest.param(lambda whole: b"no tar at all", 0, id="no tar"),
        pytest.param(lambda whole: b"", 0, id="empty"),
    ],
)
def test_a_damaged_tar_is_a_row_after_the_images_before_the_damage(damage, found: int, tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "x.tar", {"1.jpg": b"a" * 400, "2.jpg": b"b" * 400})
    whole.write_bytes(damage(whole.read_bytes()))
    *sound, last = images(members(whole))
    assert [read(image) for image in sound] == [b"a" * 400][:found]
    assert last.uri == str(whole)
    assert f"is damaged after {found} images" in reason(last)


def test_a_tar_that_ends_within_an_image(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", {"1.jpg": b"a" * 400})
    tar.write_bytes(tar.read_bytes()[:700])
    image, last = images(members(tar))
    assert "188 bytes came instead of 400" in reason(image)
    assert "is damaged after 1 images" in reason(last)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(b"{", "the .json file beside 1.jpg is not JSON", id="not JSON"),
        pytest.param(b'{"width": "20"}', "width has values of several types", id="types"),
    ],
)
def test_json_that_cannot_be_carried(text: bytes, message: str, tmp_path: Path) -> None:
    files = {"0.jpg": b"0", "0.json": b'{"width": 20}', "1.jpg": b"1", "1.json": text}
    with pytest.raises(ListError, match=message):
        members(write_tar(tmp_path / "x.tar", files), "width")


def test_tars_among_the_inputs(tmp_path: Path) -> None:
    for number in range(20):
        write_tar(tmp_path / f"{number:05d}.tar", {f"{number}.jpg": b"x"})
    (tmp_path / "00003.parquet").write_bytes(b"img2dataset's own table")
    names = [f"{number:05d}.tar#{number}.jpg" for number in range(20)]

    def listed(given: object) -> list[str]:
        uris = [row["uri"] for batch in list_images([str(given)]) for row in batch.to_pylist()]
        return [uri.removeprefix(f"{tmp_path}/") for uri in uris]

    assert listed(tmp_path) == names
    assert listed(tmp_path / "*.tar") == names
    assert listed(tmp_path / "00007.tar") == names[7:8]


def test_a_compressed_tar_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x\.tar\.gz is compressed.*unpack it"):
        list(list_images([str(tmp_path / "x.tar.gz")]))
