"""Images inside Parquet: listed without their bytes, and read row group by row group."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_job.inputs.filters import Filters
from beam_job.inputs.listing import list_images
from beam_job.inputs.packed import Place, read_image
from beam_job.inputs.rows import ListOptions
from beam_job.loading.images import FetchedImage, fetch
from beam_job.records import Failure, ImageInput
from beam_job.storage import Allowed, TooLargeError
from tests.planned import grey

NOWHERE = Allowed()


def listed(given: object, **options: object) -> list[ImageInput]:
    batches = list_images([str(given)], ListOptions(**options))  # type: ignore[arg-type]
    return [ImageInput(*list(row.values())[:8]) for batch in batches for row in batch.to_pylist()]


def read(image: ImageInput) -> bytes | str:
    found = fetch(image, 10.0, NOWHERE, Filters())
    return found.data if isinstance(found, FetchedImage) else found.error_message


def write(path: Path, paths: list[str | None], nulls: bool = False) -> list[bytes]:
    images = [grey(10 + number) for number in range(len(paths))]
    values = [{"bytes": None if nulls else data, "path": path} for data, path in zip(images, paths, strict=True)]
    pq.write_table(pa.table({"image": values, "label": list(range(len(paths)))}), path, row_group_size=3)
    return images


def test_images_of_hugging_face(tmp_path: Path) -> None:
    paths = ["0.png", None, "2.png", "0.png", "4.png", None, "6.png"]
    images = write(tmp_path / "train-0.parquet", paths)
    found = listed(tmp_path / "train-0.parquet", uri_column="image.bytes", carry_columns=("label",))
    rows = {1: f"{tmp_path}/train-0.parquet#row=2", 3: f"{tmp_path}/train-0.parquet#row=4"}
    rows[5] = f"{tmp_path}/train-0.parquet#row=6"
    assert [image.uri for image in found] == [rows.get(at, path) for at, path in enumerate(paths)]
    assert [read(image) for image in reversed(found)] == images[::-1]
    assert {image.object_version is None for image in found} == {False}
    assert not any(str(data) in json.dumps(image.parquet_place) for data in images for image in found)


def test_paths_without_bytes_are_read(tmp_path: Path) -> None:
    (tmp_path / "outside.png").write_bytes(grey(90))
    images = [{"bytes": None, "path": f"{tmp_path}/outside.png"}] * 70  # more than the rows that are looked at
    images += [{"bytes": b"no image", "path": "a"}, {"bytes": grey(10), "path": "b"}, {"bytes": None, "path": "c"}]
    pq.write_table(pa.table({"image": images}), tmp_path / "0.parquet")
    found = listed(tmp_path / "0.parquet", uri_column="image.bytes")
    assert [image.uri for image in found[-3:]] == ["a", "b", "c"]
    assert read(found[0]) == grey(90)
    assert read(found[71]) == grey(10)
    assert "has no bytes in column image.bytes" in str(read(found[72]))
    assert "not among the allowed schemes" in str(read(dataclasses.replace(found[0], is_trusted=False)))


def test_paths_of_one_name_in_two_files_are_two_images(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.parquet"):
        write(tmp_path / name, ["0.png", "1.png"])
    found = listed(tmp_path / "*.parquet", uri_column="image.bytes")
    assert len({image.uri for image in found}) == 4


@pytest.mark.parametrize("type_", [pa.binary(), pa.large_binary(), pa.binary_view()], ids=str)
def test_a_column_of_bytes(type_: pa.DataType, tmp_path: Path) -> None:
    pq.write_table(pa.table({"jpg": pa.array([None, grey(5)], pa.binary()).cast(type_)}), tmp_path / "0.parquet")
    without, found = listed(tmp_path, uri_column="jpg")
    assert found.uri == f"{tmp_path}/0.parquet#row=2"
    assert read(found) == grey(5)
    assert "has no bytes in column jpg" in read(without)


def test_a_row_may_be_named_by_its_uri(tmp_path: Path) -> None:
    images = write(tmp_path / "0.parquet", [None] * 7)
    anywhere = Allowed(anywhere=True)
    found = [fetch(ImageInput(f"{tmp_path}/0.parquet#row={row}"), 10.0, anywhere, Filters()) for row in range(1, 9)]
    assert [image.data for image in found if isinstance(image, FetchedImage)] == images
    assert isinstance(found[7], Failure)
    assert "no such row" in found[7].error_message
    assert read(ImageInput(f"{tmp_path}/0.parquet#row=1")) != images[0]


def test_a_list_that_has_changed(tmp_path: Path) -> None:
    write(tmp_path / "0.parquet", ["0.png", "1.png"])
    [first, _] = listed(tmp_path / "0.parquet", uri_column="image.bytes")
    write(tmp_path / "0.parquet", ["0.png"])
    assert "has changed since it was listed" in read(first)


def test_limits(tmp_path: Path) -> None:
    write(tmp_path / "0.parquet", ["0.png"])
    sizes: list[int] = []
    place = Place(str(tmp_path / "0.parquet"), 0, 0, "image.bytes")
    assert read_image(place, None, on_size=sizes.append)[0] == grey(10)
    assert sizes == [len(grey(10))]
    with pytest.raises(TooLargeError):
        read_image(place, None, max_bytes=10)


def test_damage_within_a_row_group_is_a_failure_of_its_images(tmp_path: Path) -> None:
    write(tmp_path / "0.parquet", [f"{number}.png" for number in range(6)])
    whole = bytearray((tmp_path / "0.parquet").read_bytes())
    column = pq.ParquetFile(tmp_path / "0.parquet").metadata.row_group(1).column(0)
    begin = column.dictionary_page_offset or column.data_page_offset
    found = listed(tmp_path / "0.parquet", uri_column="image.bytes")
    whole[begin : begin + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    stat = (tmp_path / "0.parquet").stat()
    (tmp_path / "0.parquet").write_bytes(whole)

    os.utime(tmp_path / "0.parquet", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    results = [fetch(image, 10.0, NOWHERE, Filters()) for image in found]
    assert [type(result) for result in results] == [FetchedImage] * 3 + [Failure] * 3
    assert "cannot be read as Parquet" in str(results[5])


def test_text_that_is_no_image_is_a_path(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uri": pa.array([b"/x/a.jpg"])}), tmp_path / "l.parquet")
    assert listed(tmp_path / "l.parquet")[0].parquet_place is None
