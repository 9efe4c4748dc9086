"""Columns about each image: the same from threads and from processes, whatever the metadata hold."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beam_job.config import IMAGE_COLUMNS, JobConfig
from beam_job.inputs.filters import Filters
from beam_job.loading.image_columns import image_columns
from beam_job.loading.load_config import LoadConfig
from beam_job.loading.loader import Loader
from beam_job.loading.process_loader import ProcessLoader
from beam_job.loading.thread_loader import ThreadLoader
from beam_job.output.tables import caption_table
from beam_job.records import CaptionedImage, DecodedImage, ImageInput, now
from beam_job.storage import Allowed
from model import Caption, load_image
from tests.images import encode, halves


def jpeg_with_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0110] = "Camera 5\0"
    exif[0x0112] = 1
    exif[0x010E] = b"\xff\xfe"
    exif.get_ifd(0x8769)[0x829A] = 0.5
    return encode(halves("red", "blue"), "JPEG", exif=exif)


@pytest.mark.parametrize("kind", [ThreadLoader, ProcessLoader], ids=["threads", "processes"])
def test_both_loaders(tmp_path: Path, kind: type[Loader]) -> None:
    data = jpeg_with_exif()
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    allowed = Allowed(schemes=("file",), roots=(str(tmp_path),))
    loader = kind(LoadConfig(32, 2, 1, 10**6, 2**28, 60.0, allowed, Filters(), image_columns=IMAGE_COLUMNS))
    loader.put("x", [ImageInput(str(path))])
    outcome = None
    while outcome is None:
        [*_, event] = loader.get(timeout=60)
        outcome = event.outcome
    loader.stop()
    assert isinstance(outcome, DecodedImage)
    found = dict(outcome.image_columns)
    exif = json.loads(found.pop("exif"))
    assert (exif["Model"], exif["Orientation"], exif["ExposureTime"]) == ("Camera 5", 1, 0.5)
    assert len(found.pop("phash")) == 16
    assert found == {"sha256": hashlib.sha256(data).hexdigest(), "format": "JPEG", "bytes": len(data)}


def test_the_perceptual_hash_hardly_changes_with_size_and_format(photographs) -> None:
    original = Image.open(photographs["rocket.jpg"]).convert("RGB")
    small = encode(original.resize((320, 214)), "PNG")
    other = encode(Image.open(photographs["coffee.png"]).convert("RGB"), "JPEG")
    hashes = []
    for data in (encode(original, "JPEG"), small, other):
        hashes.append(int(image_columns(["phash"], data, load_image(data, 224).pixels)["phash"], 16))
    first, same, different = hashes
    assert (first ^ same).bit_count() <= 6 < (first ^ different).bit_count()


def test_damaged_metadata_are_null() -> None:
    data = jpeg_with_exif().replace(b"Exif\0\0MM", b"Exif\0\0XX").replace(b"Exif\0\0II", b"Exif\0\0XX")
    assert image_columns(["exif"], data, np.zeros((8, 8, 3), np.uint8)) == {"exif": None}


def test_they_are_columns_of_the_captions() -> None:
    image = CaptionedImage("x", (Caption("a dog", -1.0),), 1, 1, "1", now(), image_columns={"bytes": 5, "exif": None})
    table = caption_table([image], "m", False, image_columns=["bytes", "exif"])
    assert table.select(["bytes", "exif"]).to_pylist() == [{"bytes": 5, "exif": None}]


@pytest.mark.parametrize(
    ("names", "carried", "message"),
    [
        (("md5",), (), "--image_columns accepts sha256, phash, format, bytes, exif, not 'md5'"),
        (("bytes", "bytes"), (), "two columns named 'bytes'"),
        (("sha256",), ("sha256",), "two columns named 'sha256'"),
    ],
)
def test_wrong_names_are_refused(names: tuple[str, ...], carried: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JobConfig(("x",), "out", image_columns=names, carry_columns=carried)
