"""Photographs with human captions, from Parquet, COCO's captions JSON or TensorFlow Datasets."""

from __future__ import annotations

import glob
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TFDS = "tfds:"


class DataError(ValueError):
    """The training data cannot be read; the message says what was found."""


@dataclass(frozen=True)
class Example:
    """A photograph and what people said of it.

    Attributes:
      image_id: file name or number in its collection.
      image: the image file's bytes, or its path.
      captions: one or more.
    """

    image_id: str
    image: bytes | Path
    captions: tuple[str, ...]

    def read(self) -> bytes:
        """The image file's bytes."""
        return self.image if isinstance(self.image, bytes) else self.image.read_bytes()


def read_examples(data: str, images: str | None = None) -> list[Example]:
    """All examples of a data set.

    Args:
      data: Parquet files (one, a folder of them or a glob) with the columns `image` (bytes, a path, or Hugging Face's
        {bytes, path}), `captions` (list of strings) and, if there is one, `image_id`; or a captions JSON of COCO; or
        `tfds:NAME` or `tfds:NAME:SPLIT` of TensorFlow Datasets, with COCO's features (`tfds:coco_captions`).
      images: folder of the image files that `data` names by relative paths, by default the folder of `data`; with
        `tfds:`, the folder to keep the photographs in.

    Raises:
      DataError: nothing is there, or it has another form.
    """
    if data.startswith(TFDS):
        return _from_tfds(data, images)
    folder = Path(images) if images else Path(data if Path(data).is_dir() else Path(data).parent)
    examples = _from_coco(Path(data), folder) if data.endswith(".json") else _from_parquet(data, folder)
    if not examples:
        raise DataError(f"{data} holds no photograph with a caption")
    return examples


def read_columns(files: str, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """Rows of Parquet files (one, a folder of them, or a glob) as Python values.

    A column with a question mark behind its name may be missing; it is None then.

    Raises:
      DataError: no such file, or no such column.
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
    """A split of TensorFlow Datasets; its photographs become files, for they are read again and are no small memory."""
    if images is None:
        raise DataError(f"{data}: --images=FOLDER must say where its photographs are to be kept")
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(f"{data} needs TensorFlow Datasets: pip install 'caption-images[tfds]'") from error
    name, _, split = data.removeprefix(TFDS).partition(":")
    try:
        rows = tfds.load(name, split=split or "train", decoders={"image": tfds.decode.SkipDecoding()})
    except Exception as error:  # of a download, a name, a split; each dataset has its own
        raise DataError(
            f"{data} cannot be had: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ) from error
    folder = Path(images)
    folder.mkdir(parents=True, exist_ok=True)
    return [_of_tfds(row, data, folder) for row in rows.as_numpy_iterator()]


def _of_tfds(row: dict[str, Any], data: str, folder: Path) -> Example:
    try:
        name = Path(row["image/filename"].decode()).name
        captions = tuple(text.decode() for text in row["captions"]["text"])
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{data} has no image, image/filename and captions as COCO has: {', '.join(sorted(row))}"
        ) from error
    path = folder / name
    if not path.exists():
        partial = path.with_name(f"{name}.partial")
        partial.write_bytes(row["image"])
        partial.replace(path)
    return Example(name, path, captions)
