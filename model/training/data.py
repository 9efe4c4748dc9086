"""Reads images with human captions from Parquet, COCO's captions JSON or TensorFlow Datasets."""

from __future__ import annotations

import functools
import glob
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.preprocessing import ImageError, LoadedImage, load_image
from model.training.command import replace_file

TFDS = "tfds:"


class DataError(ValueError):
    """The data set cannot be read; the message says what was found."""


@dataclass(frozen=True)
class Example:
    """An image and its human captions.

    Attributes:
      image_id: the image's name in its data set, or its row number; not unique across data sets.
      image: the image file's bytes, or its path.
      captions: one or more.
    """

    image_id: str
    image: bytes | Path
    captions: tuple[str, ...]

    def read(self) -> bytes:
        """The image file's bytes."""
        return self.image if isinstance(self.image, bytes) else self.image.read_bytes()

    def load(self, size: int) -> LoadedImage:
        """The decoded image, scaled to `size` pixels a side. Raises ImageError, with the image's name; OSError."""
        try:
            return load_image(self.read(), size)
        except ImageError as error:
            raise ImageError(f"{self.image_id}: {error}") from error

    @functools.cached_property
    def image_sha256(self) -> str:
        """Hexadecimal SHA-256 of the image file's bytes."""
        return hashlib.sha256(self.read()).hexdigest()


def hash_images(examples: Sequence[Example]) -> str:
    """Hexadecimal SHA-256 that identifies the images, in their order. Raises OSError if one cannot be read."""
    return _hash_strings(example.image_sha256 for example in examples)


def hash_examples(examples: Sequence[Example]) -> str:
    """Hexadecimal SHA-256 that identifies images and captions. Raises OSError if an image cannot be read."""
    return _hash_strings(json.dumps([example.image_sha256, *example.captions]) for example in examples)


def hash_texts(texts: Sequence[str]) -> str:
    """Hexadecimal SHA-256 that identifies texts in their order."""
    return _hash_strings(json.dumps(text) for text in texts)


def _hash_strings(strings: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for string in strings:
        digest.update(f"{string}\n".encode())
    return digest.hexdigest()


def read_examples(data: str, images: str | None = None) -> list[Example]:
    """Reads all examples of a data set.

    Args:
      data: Parquet files (one, a folder of them or a glob) with the columns `image` (bytes, a path, or Hugging Face's
        {bytes, path}), `captions` (list of strings) and optionally `image_id`; or a captions JSON of COCO; or
        `tfds:NAME` or `tfds:NAME:SPLIT` of TensorFlow Datasets, with COCO's features (`tfds:coco_captions`).
      images: the folder to which image paths in `data` are relative, by default the folder of `data`; with `tfds:`,
        the folder to which the images are written.

    Raises:
      DataError: there is no data, or it has another format.
    """
    if data.startswith(TFDS):
        return _from_tfds(data, images)
    folder = Path(images) if images else Path(data if Path(data).is_dir() else Path(data).parent)
    examples = _from_coco(Path(data), folder) if data.endswith(".json") else _from_parquet(data, folder)
    if not examples:
        raise DataError(f"{data} contains no image with a caption")
    return examples


def read_columns(files: str, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """Reads columns of Parquet files (one, a folder of them, or a glob) as rows of Python values.

    Args:
      files: the path.
      columns: their names; one that ends in a question mark may be missing, its values are then None.

    Raises:
      DataError: there is no such file, or a column is missing.
    """
    try:
        import duckdb
    except ImportError as error:
        raise DataError("reading Parquet for training needs DuckDB: pip install 'caption-images[train]'") from error
    pattern = f"{files}/**/*.parquet" if Path(files).is_dir() else files
    if not glob.glob(pattern, recursive=True):
        raise DataError(f"no Parquet file at {pattern}")
    try:
        rows = duckdb.read_parquet(pattern)
        missing = {name for name in columns if not name.endswith("?")} - set(rows.columns)
        if missing:
            raise DataError(
                f"{pattern} has the columns {', '.join(rows.columns)}; missing: {', '.join(sorted(missing))}"
            )
        names = [name.rstrip("?") for name in columns]
        return rows.select(", ".join(name if name in rows.columns else "NULL" for name in names)).fetchall()
    except duckdb.Error as error:
        raise DataError(f"{pattern} cannot be read: {error}") from error


def _from_parquet(data: str, folder: Path) -> list[Example]:
    return [
        Example(str(number if name is None else name), _image(image, folder), tuple(captions))
        for number, (name, image, captions) in enumerate(read_columns(data, ("image_id?", "image", "captions")))
        if captions
    ]


def _image(value: Any, folder: Path) -> bytes | Path:
    if isinstance(value, dict):  # Hugging Face's Image feature
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
        return folder / value
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    raise DataError(f"an image must be bytes or a path, not {type(value).__name__}")


def _from_coco(path: Path, folder: Path) -> list[Example]:
    """The annotation format of COCO (cocodataset.org, "Data format", section 5, image captioning)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = {image["id"]: image["file_name"] for image in content["images"]}
        captions: dict[int, list[str]] = {}
        for annotation in content["annotations"]:
            captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
        return [Example(names[number], folder / names[number], tuple(said)) for number, said in captions.items()]
    except FileNotFoundError as error:
        raise DataError(f"no such file: {path}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a captions JSON of COCO: {error!r}") from error


def _from_tfds(data: str, images: str | None) -> list[Example]:
    """A split of TensorFlow Datasets. Its images become files, since they are read several times and fill memory."""
    if images is None:
        raise DataError(f"{data}: set --images=FOLDER, to which the images are written")
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(f"{data} needs TensorFlow Datasets: pip install 'caption-images[tfds]'") from error
    name, _, split = data.removeprefix(TFDS).partition(":")
    try:
        rows = tfds.load(name, split=split or "train", decoders={"image": tfds.decode.SkipDecoding()})
    except Exception as error:  # each dataset has errors of its own, for its download, its name, its splits
        raise DataError(
            f"{data} cannot be loaded: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ) from error
    folder = Path(images)
    folder.mkdir(parents=True, exist_ok=True)
    return [_from_tfds_row(row, data, folder) for row in rows.as_numpy_iterator()]


def _from_tfds_row(row: dict[str, Any], data: str, folder: Path) -> Example:
    try:
        name = Path(row["image/filename"].decode()).name
        captions = tuple(text.decode() for text in row["captions"]["text"])
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{data} lacks image, image/filename or captions/text, as COCO has them; it has {', '.join(sorted(row))}"
        ) from error
    path = folder / name
    if not path.exists():
        replace_file(path, row["image"])
    elif path.read_bytes() != row["image"]:
        raise DataError(f"{path} exists and differs from the image of {data}; choose another folder for --images")
    return Example(name, path, captions)
