"""Training data in its forms."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.preprocessing import ImageError
from model.training.data import DataError, Example, read_examples


def write(path: Path, rows: list[dict]) -> str:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def test_bytes(tmp_path: Path) -> None:
    data = write(tmp_path / "d.parquet", [{"image_id": "x", "image": b"\xff\xd8", "captions": ["a", "b"]}])
    [example] = read_examples(data)
    assert (example.image_id, example.read(), example.captions) == ("x", b"\xff\xd8", ("a", "b"))


def test_paths_are_relative_to_the_data_or_to_the_image_folder(tmp_path: Path) -> None:
    data = write(tmp_path / "d.parquet", [{"image": "x.jpg", "captions": ["a"]}])
    (tmp_path / "x.jpg").write_bytes(b"beside")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.jpg").write_bytes(b"within")
    assert read_examples(data)[0].read() == b"beside"
    assert read_examples(data, str(tmp_path / "images"))[0].read() == b"within"


def test_the_image_feature_of_hugging_face(tmp_path: Path) -> None:
    data = write(tmp_path / "d.parquet", [{"image": {"bytes": b"\xff", "path": None}, "captions": ["a"]}])
    assert read_examples(data)[0].read() == b"\xff"


def test_a_folder_of_shards_and_rows_without_captions(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", [{"image": b"1", "captions": ["a"]}, {"image": b"2", "captions": []}])
    write(tmp_path / "train-1.parquet", [{"image": b"3", "captions": ["c"]}])
    assert sorted(example.read() for example in read_examples(str(tmp_path))) == [b"1", b"3"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        pytest.param([{"image": b"1", "text": "a"}], "has the columns image, text; missing: captions", id="column"),
        pytest.param([{"image": 4, "captions": ["a"]}], "must be bytes or a path, not int", id="type"),
        pytest.param([{"image": b"1", "captions": []}], "contains no image with a caption", id="nothing"),
    ],
)
def test_refuses_parquet(rows: list[dict], message: str, tmp_path: Path) -> None:
    data = write(tmp_path / "d.parquet", rows)
    with pytest.raises(DataError, match=message):
        read_examples(data)


@pytest.mark.parametrize("content", ["[]", "{}", "not json", json.dumps({"images": [], "annotations": [{"id": 1}]})])
def test_refuses_json_of_another_form(content: str, tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text(content)
    with pytest.raises(DataError, match=r"is not a captions JSON of COCO"):
        read_examples(str(tmp_path / "d.json"))


def test_refuses_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "d.parquet").write_text("hello")
    with pytest.raises(DataError, match="cannot be read"):
        read_examples(str(tmp_path / "d.parquet"))


def test_an_image_that_cannot_be_decoded_is_named() -> None:
    with pytest.raises(ImageError, match=r"^dog\.jpg: not an image of a known format"):
        Example("dog.jpg", b"junk", ("a dog",)).load(8)
