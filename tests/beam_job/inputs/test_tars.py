"""Images in tars: which are listed, where they lie, what their .json files say, and how they are read."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pytest
from PIL import Image

from beam_job.inputs.listing import list_images
from beam_job.records import ImageInput
from beam_job.storage import LocalStorage, storage_for
from tests.images import encode
from tests.tars import images, members, names_in, read, reason, write_tar

SAMPLES = {
    "000000001.jpg": b"one",
    "000000001.json": json.dumps({"caption": "a dog", "width": 20, "key": "000000001"}).encode(),
    "000000001.txt": b"a dog",
    "000000002.png": b"two two",
    "000000002.json": json.dumps({"caption": None, "width": 30}).encode(),
    "deep/000000003.part.webp": b"3",
    "notes.md": b"no image",
}


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


def test_a_tar_that_changed_after_the_listing_is_not_read_at_the_old_places(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "00000.tar", SAMPLES)
    listed = images(members(tar))
    write_tar(tar, {"other.jpg": b"x" * 5000, **SAMPLES})
    assert {"has changed since it was listed" in reason(image) for image in listed} == {True}


def test_json_that_is_none_costs_its_image(tmp_path: Path) -> None:
    files = {"0.jpg": b"0", "0.json": b'{"width": 20}', "1.jpg": b"1", "1.json": b"{", "2.jpg": b"2"}
    tar = write_tar(tmp_path / "x.tar", {**files, "2.json": b"[" * 100_000})
    batch = members(tar, "width")
    assert batch.column("width").to_pylist() == [20, None, None]
    assert "the .json file of 1.jpg is not JSON" in reason(images(batch)[1], "list")
    assert "the .json file of 2.jpg is not JSON: it is nested too deeply" in reason(images(batch)[2], "list")


def test_values_of_several_types_become_text(tmp_path: Path) -> None:
    files = {"0.jpg": b"0", "0.json": b'{"width": 20}', "1.jpg": b"1", "1.json": b'{"width": "20 px"}', "2.jpg": b"2"}
    assert members(write_tar(tmp_path / "x.tar", files), "width").column("width").to_pylist() == ["20", "20 px", None]


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


def test_images_of_every_kind_by_name_or_content(tmp_path: Path) -> None:
    formats = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF")
    by_content = {
        f"{number}.{name}.data": encode(Image.new("RGB", (9, 9)), name) for number, name in enumerate(formats)
    }
    texts = {"0.txt": b"BMW, II*", "0.cls": b"7", "README": b"GIF animations", "x.npy": b"\x93NUMPY"}
    named = {"a.jfif": b"?", "b.HEIC": b"?", "c.TIF": b"?"}
    assert names_in(write_tar(tmp_path / "x.tar", by_content | texts | named)) == [*by_content, *named]


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
