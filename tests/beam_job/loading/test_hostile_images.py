"""Runs of the real job over files that are broken, mislabelled or made to break decoders: one plain row each."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from PIL import Image

from model.png_chunks import pixels_alone
from model.preprocessing import FORMATS
from tests.conftest import shared
from tests.images import (
    EPS,
    PNG_BOMB,
    TEXT_BOMB,
    TILE_BOMB,
    encode,
    encode_heic,
    gif_bomb,
    halves,
    jpeg_bomb,
)


def caption_images(tmp_path: Path, tiny_bundle: Path, *arguments: str) -> tuple[dict[str, dict], dict[str, dict]]:
    """The command in a process of its own: its captions and failures by file name."""
    output = tmp_path / "out"
    command = [sys.executable, "-m", "beam_job", f"--output={output}", f"--model={tiny_bundle}", "--decode_threads=2"]
    done = subprocess.run([*command, "--max_failure_ratio=1", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for noise in ("Traceback", "TIFFRead", "Warning"):  # libtiff and Pillow warn of what the failures tell
        assert noise not in done.stderr
    captions, failures = (
        {Path(row["uri"]).name: row for row in ds.dataset(output / name, partitioning="hive").to_table().to_pylist()}
        for name in ("captions", "failures")
    )
    assert not captions.keys() & failures.keys()
    return captions, failures


def assert_told_plainly(failures: dict[str, dict], stages: tuple[str, ...] = ("decode",)) -> None:
    for name, row in failures.items():
        message = row["error_message"]
        assert row["stage"] in stages, (name, row)
        assert row["retry_when"] == ("options" if row["error_type"] == "TooManyPixelsError" else "content"), (name, row)
        assert 0 < len(message) < 200, (name, message)
        assert message.isprintable(), (name, message)
        assert not any(sign in message for sign in ("<", " at 0x", "Traceback", "Error:")), (name, message)


def pillow_reads(data: bytes) -> bool:
    """Whether this Pillow, which need not be the manifest's, decodes the first frame."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.load()
    except Exception:
        return False
    return True


@pytest.mark.filterwarnings("ignore")
def test_every_file_of_a_hostile_folder_becomes_one_row(tmp_path: Path, tiny_bundle: Path) -> None:
    hostile = shared("hostile_images")
    with (hostile / "manifest.tsv").open(encoding="utf-8") as lines:
        manifest = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    (tmp_path / "uris.txt").write_text("".join(f"{hostile / row['file']}\n" for row in manifest))
    captions, failures = caption_images(
        tmp_path, tiny_bundle, f"--input={tmp_path}/uris.txt", f"--allow_root={hostile}"
    )
    assert len(manifest) > 200
    assert captions.keys() | failures.keys() == {row["file"] for row in manifest}
    assert_told_plainly(failures)
    assert {row["error_type"] for row in failures.values()} == {
        "ImageError",
        "TooManyPixelsError",
    }  # none broke its decoder
    readable = {
        row["file"]
        for row in manifest
        if row["pillow_decodes"] == "yes"
        and row["sniffed"] in FORMATS
        and pillow_reads((hostile / row["file"]).read_bytes())
    }
    heic = {row["file"] for row in manifest if row["sniffed"] in ("HEIF", "ISOBMFF")}  # Pillow alone reads none
    pngs = {row["file"] for row in manifest if row["sniffed"] == "PNG"}
    extras = {name: pixels_alone((hostile / name).read_bytes()) for name in pngs - readable}
    assert len(readable) > 70
    assert captions.keys() - heic == readable | {
        name for name, pixels in extras.items() if pixels and pillow_reads(pixels)
    }


GOOD = {
    "progressive.jpg": encode(halves("red", "blue"), "JPEG", progressive=True),
    "really_a_png.jpg": encode(halves("red", "blue"), "PNG"),
    "no_suffix": encode(halves("red", "blue"), "WEBP"),
    "animated.gif": encode(halves("red", "red"), "GIF", save_all=True, append_images=[halves("blue", "blue")] * 500),
    "phone.heic": encode_heic(halves("red", "blue")),
    "reduced.jpg": encode(Image.new("L", (2400, 1600)), "JPEG"),
}
BAD = {
    "empty.jpg": (b"", "the file is empty"),
    "text.png": (
        b"no picture",
        "not an image of a known format, but a text file; a list of images needs the extension .txt",
    ),
    "drawing.jpg": (
        EPS,
        "not an image of a known format, but an EPS drawing, which is a program and not supported; convert it",
    ),
    "cut.jpg": (GOOD["progressive.jpg"][:-100], "this JPEG cannot be decoded: the file ends too early"),
    "cut.png": (GOOD["really_a_png.jpg"][:-40], "this PNG cannot be decoded: the file ends too early"),
    "bomb.png": (PNG_BOMB, "60000 x 60000 pixels are more than the limit of 1,000,000"),
    "bomb.gif": (gif_bomb(), "65535 x 65535 pixels are more than the limit of 1,000,000"),
    "bomb.jpg": (jpeg_bomb(), "65500 x 65500 pixels are more than the limit of 1,000,000"),
    "text_bomb.png": (TEXT_BOMB, "this PNG cannot be decoded: the file ends too early"),
    "bomb.tif": (
        TILE_BOMB,
        "this TIFF cannot be decoded: its tiles of 16000 x 16000 pixels are larger than the picture",
    ),
    "large.webp": (
        encode(Image.new("RGB", (1001, 1000)), "WEBP"),
        "1001 x 1000 pixels are more than the limit of 1,000,000",
    ),
}


def test_self_made_cases(tmp_path: Path, tiny_bundle: Path) -> None:
    """With limits of its own on pixels and bytes, which a list's images meet when they are fetched."""
    cases = GOOD | {name: data for name, (data, _) in BAD.items()}
    cases |= {"small.bin": b"x" * 9, "large.bin": b"x" * 2_000_000}
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "uris.txt").write_text("".join(f"{tmp_path / name}\n" for name in cases))
    captions, failures = caption_images(
        tmp_path, tiny_bundle, f"--input={tmp_path}/uris.txt", "--max_pixels=1000000", "--max_bytes=1000000"
    )
    assert captions.keys() == GOOD.keys()
    assert (captions["reduced.jpg"]["width"], captions["reduced.jpg"]["height"]) == (2400, 1600)
    large = failures.pop("large.bin")
    assert (large["stage"], large["error_type"], large["transient"]) == ("fetch", "TooLarge", False)
    assert large["error_message"] == "2,000,000 bytes are more than --max_bytes=1000000"
    assert failures.pop("small.bin")["stage"] == "decode"
    assert {name: row["error_message"] for name, row in failures.items()} == {
        name: message for name, (_, message) in BAD.items()
    }
    assert_told_plainly(failures)


def test_a_list_s_image_that_is_too_small_fails_when_it_is_fetched(tmp_path: Path) -> None:
    from beam_job.inputs.filters import Filters
    from beam_job.loading.images import fetch
    from beam_job.records import Failure, ImageInput
    from beam_job.storage import Allowed

    (tmp_path / "x.jpg").write_bytes(b"x" * 9)
    image, allowed = ImageInput(str(tmp_path / "x.jpg")), Allowed(schemes=("file",), roots=("/",))
    outcome = fetch(image, 60, allowed, Filters(min_bytes=10))
    assert isinstance(outcome, Failure)
    assert (outcome.stage, outcome.error_type) == ("fetch", "TooSmall")
    assert outcome.error_message == "9 bytes are fewer than --min_bytes=10"
    assert not isinstance(fetch(image, 60, allowed, Filters(min_bytes=9, max_bytes=9)), Failure)
