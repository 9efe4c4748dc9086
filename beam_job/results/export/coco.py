"""Writes COCO's results format for captions (cocodataset.org, "Results format", section 5) for pycocotools' `loadRes`.

`results.json` is a list of `{"image_id": 17, "caption": "..."}`. If an annotation file is given, the ids are its own,
matched by file name. Otherwise they count from 1, and `images.json` is an annotation file with the images but no
annotations.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from beam_job.inputs.columns import to_json
from beam_job.inputs.tars import container_of
from beam_job.records import Failure
from beam_job.results.export.left_out import LeftOut
from beam_job.storage import StorageError, public_name, storage_for

_READ_TIMEOUT_S = 600.0


def write_coco(tables: Iterable[pa.Table], folder: str, annotations: str | None, left_out: LeftOut) -> int:
    """Writes `results.json`, and `images.json` where there are no `annotations`; returns the images.

    Args:
      tables: of captions.
      folder: to write to.
      annotations: a COCO annotation file; images that are not in it are left out.
      left_out: gets those images.

    Raises:
      StorageError: `annotations` cannot be read, or is not a COCO annotation file.
    """
    known = None if annotations is None else _read_ids(annotations)
    rows = (row for table in tables for row in table.to_pylist())
    if known is None:
        return _write_numbered(rows, folder)
    return _write_known(rows, folder, known, left_out)


def _write_numbered(rows: Iterator[Mapping[str, Any]], folder: str) -> int:
    number = 0
    images = os.path.join(folder, "images.json")
    with _json_list(os.path.join(folder, "results.json")) as add_result, _json_list(images, "images") as add_image:
        for number, row in enumerate(rows, 1):
            add_result({"image_id": number, "caption": row["caption"]})
            size = {"width": row["width"], "height": row["height"]}
            add_image({"id": number, "file_name": row["uri"], **size})
    return number


def _write_known(rows: Iterator[Mapping[str, Any]], folder: str, known: dict[str, int], left_out: LeftOut) -> int:
    written = 0
    with _json_list(os.path.join(folder, "results.json")) as add_result:
        for row in rows:
            name = _file_name(row["uri"])
            number = known.pop(name, None)  # once: two images of one name cannot be told apart
            if number is None:
                message = f"{name!r} ({row['uri']}) is not in the annotations, or another image has its id already"
                left_out.add(Failure(row["uri"], "list", "NotInAnnotations", message, False))
            else:
                add_result({"image_id": number, "caption": row["caption"]})
                written += 1
    return written


def _read_ids(annotations: str) -> dict[str, int]:
    try:
        content = json.loads(storage_for(annotations).read(annotations, timeout=_READ_TIMEOUT_S)[0])
        names = [_file_name(image["file_name"]) for image in content["images"]]
        known = dict(zip(names, (int(image["id"]) for image in content["images"]), strict=True))
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"--annotations={annotations} is not a COCO annotation file: {error!r}") from error
    if len(known) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise StorageError(f"--annotations={annotations}: several images are named {twice!r}; rename them there")
    return known


def _file_name(uri: str) -> str:
    container = container_of(uri)
    return (uri[len(container) + 1 :] if container != uri else public_name(uri)).split("/")[-1]


@contextlib.contextmanager
def _json_list(path: str, name: str | None = None) -> Iterator[Any]:
    """Writes a JSON list, alone or as `name` of an annotation file; yields a function that appends an item."""
    with open(path, "x", encoding="utf-8") as file:
        separator = "[\n" if name is None else f'{{"info": {{}}, "licenses": [], "annotations": [], "{name}": [\n'

        def add(item: Mapping[str, Any]) -> None:
            nonlocal separator
            file.write(separator + to_json(item))
            separator = ",\n"

        yield add
        file.write((separator if separator != ",\n" else "\n") + ("]\n" if name is None else "]}\n"))
