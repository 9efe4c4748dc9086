"""WebDataset tars: what is in them, where it lies, and what becomes of damaged ones."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pytest
from PIL import Image

from beam_job.inputs.filters import Filters
from beam_job.inputs.listing import InputError, list_images
from beam_job.inputs.tars import list_members
from beam_job.loading.images import FetchedImage, fetch
from beam_job.records import Failure, ImageInput
from beam_job.storage import Allowed, LocalStorage, storage_for
from tests.images import encode

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
    own = ["uri", "object_version", "size", "crc32c", "tar_offset", "list_error"]
    return [ImageInput(**row) for row in batch.select(own).to_pylist()]


def read(image: ImageInput) -> bytes:
    fetched = fetch(image, 10.0, Allowed(schemes=("file",), roots=("/",)), Filters())
    assert isinstance(fetched, FetchedImage), fetched
    return fetched.data


def reason(image: ImageInput, stage: str = "fetch") -> str:
    failure = fetch(image, 0.5, Allowed(schemes=("file",), roots=("/",)), Filters())
    assert isinstance(failure, Failure)
    assert failure.stage == stage
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
    assert f"is damaged after {found} images" in reason(last, "list")


def test_a_tar_that_ends_within_an_image(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", {"1.jpg": b"a" * 400})
    tar.write_bytes(tar.read_bytes()[:700])
    image, last = images(members(tar))
    assert "188 bytes came instead of 400" in reason(image)
    assert "is damaged after 1 images" in reason(last, "list")


def test_json_that_is_none_costs_its_image(tmp_path: Path) -> None:
    files = {"0.jpg": b"0", "0.json": b'{"width": 20}', "1.jpg": b"1", "1.json": b"{", "2.jpg": b"2"}
    tar = write_tar(tmp_path / "x.tar", {**files, "2.json": b"[" * 100_000})
    batch = members(tar, "width")
    assert batch.column("width").to_pylist() == [20, None, None]
    assert "the .json file beside 1.jpg is not JSON" in reason(images(batch)[1], "list")
    assert "the .json file beside 2.jpg is not JSON: it is nested too deeply" in reason(images(batch)[2], "list")


def test_values_of_several_types_become_text(tmp_path: Path) -> None:
    files = {"0.jpg": b"0", "0.json": b'{"width": 20}', "1.jpg": b"1", "1.json": b'{"width": "20 px"}', "2.jpg": b"2"}
    assert members(write_tar(tmp_path / "x.tar", files), "width").column("width").to_pylist() == ["20", "20 px", None]


def test_a_tar_that_may_have_been_cut_between_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tar = write_tar(tmp_path / "x.tar", {"1.jpg": b"a" * 400, "2.jpg": b"b" * 400})
    members(tar)
    assert "cut" not in caplog.text
    tar.write_bytes(tar.read_bytes()[:1024])
    assert [image.uri for image in images(members(tar))] == [f"{tar}#1.jpg"]
    assert f"{tar} ends without the mark of its end, so it may have been cut" in caplog.text


def test_devices_are_rows(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("fifo.jpg", "fifo"):
            entry = tarfile.TarInfo(name)
            entry.type = tarfile.FIFOTYPE
            tar.addfile(entry)
    [image] = images(members(tmp_path / "x.tar"))
    assert reason(image, "list") == "fifo.jpg is a sparse file or a device, which cannot be read from a tar"


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


def test_a_compressed_tar_named_tar(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(gzip.compress(bytes(1024)))
    [image] = images(members(tmp_path / "x.tar"))
    assert reason(image, "list") == (
        f"{tmp_path}/x.tar is compressed, so single images cannot be read from it; unpack it"
    )


@pytest.mark.parametrize("pattern", ["", "/*.tar.gz", "/**"])
def test_compressed_tars_in_a_folder_are_named(pattern: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.tar.gz", "b.tar.gz"):
        (tmp_path / name).write_bytes(b"")
    assert list(list_images([f"{tmp_path}{pattern}"])) == []
    assert f"2 unread files, such as {tmp_path}/a.tar.gz, which is compressed, so" in caplog.text
    assert "holds no images (only 2 unread files)" in caplog.text


@pytest.mark.parametrize("inner", ["inner.tar", "a/photos.ZIP"])
def test_archives_within_a_tar_are_named(inner: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tar(tmp_path / "x.tar", {"a.jpg": b"", inner: b"x"})
    assert len(images(members(tmp_path / "x.tar"))) == 1
    assert f"x.tar: archives in it are not read, such as {inner}; unpack it" in caplog.text


# What people put into tars


def write_entries(path: Path, *entries: tuple[str, bytes | str]) -> Path:
    """A tar of files, and of links: `->target` is symbolic, `=>target` is hard."""
    with tarfile.open(path, "w") as archive:
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            if isinstance(content, str):
                entry.type = tarfile.SYMTYPE if content.startswith("->") else tarfile.LNKTYPE
                entry.linkname = content[2:]
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return path


def names_in(tar: Path) -> list[str]:
    return [image.uri.partition("#")[2] for image in images(members(tar)) if not image.list_error]


def test_images_of_every_kind_by_name_or_content(tmp_path: Path) -> None:
    formats = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF")
    by_content = {
        f"{number}.{name}.data": encode(Image.new("RGB", (9, 9)), name) for number, name in enumerate(formats)
    }
    texts = {"0.txt": b"BMW, II*", "0.cls": b"7", "README": b"GIF animations", "x.npy": b"\x93NUMPY"}
    named = {"a.jfif": b"?", "b.HEIC": b"?", "c.TIF": b"?"}
    assert names_in(write_tar(tmp_path / "x.tar", by_content | texts | named)) == [*by_content, *named]


def test_links_within_the_tar(tmp_path: Path) -> None:
    tar = write_entries(
        tmp_path / "x.tar",
        *[("a/1.jpg", b"one"), ("b/hard.jpg", "=>a/1.jpg"), ("b/soft.jpg", "->../a/1.jpg")],
        *[("chain.jpg", "->b/soft.jpg"), ("before.jpg", "->late.jpg"), ("late.jpg", b"late"), ("doc", "->a/1.jpg")],
        *[("gone.jpg", "->../../etc/passwd"), ("circle.jpg", "->circle.jpg"), ("folder", "->a")],
    )
    found = {image.uri.partition("#")[2]: image for image in images(members(tar))}
    assert {name: read(image) for name, image in found.items() if not image.list_error} == {
        **dict.fromkeys(("a/1.jpg", "b/hard.jpg", "b/soft.jpg", "chain.jpg", "doc"), b"one"),
        **dict.fromkeys(("late.jpg", "before.jpg"), b"late"),
    }
    broken = [name for name, image in found.items() if image.list_error]
    assert broken == ["gone.jpg", "circle.jpg"]
    assert "gone.jpg is a link to ../../etc/passwd, which is no image in this tar" in reason(found["gone.jpg"], "list")


def test_archives_that_were_appended(tmp_path: Path) -> None:
    parts = [write_tar(tmp_path / f"{name}.tar", {f"{name}.jpg": name.encode()}).read_bytes() for name in "abc"]
    whole = tmp_path / "whole.tar"
    whole.write_bytes(b"".join(parts))
    assert [read(image) for image in images(members(whole))] == [b"a", b"b", b"c"]
    whole.write_bytes(parts[0] + parts[1][:700])
    assert names_in(whole) == ["a.jpg", "b.jpg"]
    whole.write_bytes(parts[0] + b"something else")
    *_, last = images(members(whole))
    assert "is damaged after 1 images" in reason(last, "list")


def test_one_name_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tar = write_entries(tmp_path / "x.tar", ("a.jpg", b"old"), ("b.jpg", b"b"), ("a.jpg", b"new"))
    assert {image.uri[-5:]: read(image) for image in images(members(tar))} == {"b.jpg": b"b", "a.jpg": b"new"}
    assert read(ImageInput(f"{tar}#a.jpg")) == b"new"
    assert f"{tar}: 1 names come more than once; the last of each is captioned" in caplog.text


def test_leftovers_in_a_tar(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", {"a.jpg": b"a", "._a.jpg": b"fork", "__MACOSX/a.jpg": b"fork"})
    assert names_in(tar) == ["a.jpg"]


def test_a_tar_without_an_image_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tar = write_tar(tmp_path / "x.tar", {"a.txt": b"a"})
    assert sum(batch.num_rows for batch in list_images([str(tar)])) == 0
    assert f"the tar {tar} holds no images" in caplog.text


def test_a_shuffled_list_reads_each_tar_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = LocalStorage.open

    def count(self: LocalStorage, uri: str) -> BinaryIO:
        opened.append(uri)
        return real(self, uri)

    monkeypatch.setattr(LocalStorage, "open", count)
    tars = [write_tar(tmp_path / f"{number}.tar", {f"{at}.jpg": b"%d" % at for at in range(5)}) for number in range(40)]
    shuffled = [(tar, at) for at in range(5) for tar in tars]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda of: read(ImageInput(f"{of[0]}#{of[1]}.jpg")), shuffled))
    assert found == [b"%d" % at for _, at in shuffled]
    assert sorted(opened) == sorted(map(str, tars))
