"""Image bytes to pixels: formats, orientation, depth, transparency, and what is refused."""

from __future__ import annotations

import io
import sys
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from model import ImageError, load_image, pad_batch, preprocessing
from model.jpeg import is_plain_jpeg
from model.preprocessing import TooManyPixelsError, load_picture
from tests.images import (
    EPS,
    PNG_BOMB,
    TEXT_BOMB,
    TILE_BOMB,
    deep_png,
    encode,
    encode_heic,
    gif_bomb,
    halves,
    jpeg_bomb,
    png,
    tiff,
)

SIXTEEN_BITS = np.full((9, 9, 3), (0x80FF, 0x0100, 0xFF00), np.uint16)


def test_photograph_keeps_its_size_in_the_record_and_its_colours(photographs) -> None:
    data = photographs["rocket.jpg"].read_bytes()
    loaded = load_image(data, 97)
    assert (loaded.width, loaded.height) == Image.open(io.BytesIO(data)).size
    assert loaded.pixels.shape == (97, 97, 3)
    assert loaded.pixels.dtype == np.uint8


@pytest.mark.parametrize("name", ["rocket.jpg", "coffee.png"])
def test_pixels_are_those_of_pillows_bicubic_filter(photographs, monkeypatch, name: str) -> None:
    """Whether the faster library is there or not; smaller and larger than the picture."""
    data = photographs[name].read_bytes()
    for size in (300, 700):
        fast = load_image(data, size).pixels
        with monkeypatch.context() as without:
            without.setattr(preprocessing, "Resizer", None)
            pillows = load_image(data, size).pixels
        differences = np.abs(fast.astype(int) - pillows)
        assert differences.max() <= 2
        assert np.count_nonzero(differences) < 0.01 * differences.size


@pytest.mark.parametrize(("size", "most"), [(213, 0.01), (170, 1.5), (85, 1.5)])
def test_a_large_jpeg_is_nearly_what_it_is_decoded_whole(photographs, size: int, most: float) -> None:
    """640x427: whole, for a half would be no more than what is wanted; at a half; at a quarter."""
    data = photographs["rocket.jpg"].read_bytes()
    whole = np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
    assert np.abs(whole.astype(int) - load_image(data, size).pixels).mean() <= most


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIC"])
def test_formats(kind: str) -> None:
    image = halves("red", "blue").resize((80, 40))
    data = encode_heic(image) if kind == "HEIC" else encode(image, kind)
    pixels = load_image(data, 8).pixels
    np.testing.assert_allclose(pixels[4, 0], (255, 0, 0), atol=12)
    np.testing.assert_allclose(pixels[4, 7], (0, 0, 255), atol=12)


def test_without_pillow_heif_a_heic_file_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_heic(halves("red", "blue"))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"HEIC image needs pillow-heif: pip install 'caption-images\[heic\]'"):
        load_image(data, 8)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIC"])
def test_exif_orientation_is_honoured(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise by 90 degrees: left becomes top
    image = halves("red", "blue").resize((80, 40))
    data = encode_heic(image, exif=exif.tobytes()) if kind == "HEIC" else encode(image, kind, exif=exif)
    loaded = load_image(data, 8)
    assert (loaded.width, loaded.height) == (40, 80)
    np.testing.assert_allclose(loaded.pixels[0, 4], (255, 0, 0), atol=12)
    np.testing.assert_allclose(loaded.pixels[7, 4], (0, 0, 255), atol=12)


def palette_with_transparency() -> bytes:
    image = Image.new("P", (9, 9), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    return encode(image, "PNG", transparency=1)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(encode(Image.new("RGBA", (9, 9), (255, 0, 0, 0)), "PNG"), (255, 255, 255), id="transparent"),
        pytest.param(encode(Image.new("RGBA", (9, 9), (0, 0, 0, 255)), "PNG"), (0, 0, 0), id="opaque"),
        pytest.param(encode(Image.new("RGBA", (9, 9), (255, 0, 0, 128)), "PNG"), (255, 127, 127), id="half"),
        pytest.param(encode(Image.new("LA", (9, 9), (0, 0)), "PNG"), (255, 255, 255), id="grey with alpha"),
        pytest.param(
            encode(Image.fromarray(np.full((9, 9), 0x80FF, np.uint16)), "PNG"), (128, 128, 128), id="16-bit grey PNG"
        ),
        pytest.param(
            encode(Image.fromarray(np.full((9, 9), 0x80FF, np.uint16)), "TIFF"), (128, 128, 128), id="16-bit grey TIFF"
        ),
        pytest.param(deep_png(SIXTEEN_BITS), (128, 1, 255), id="16-bit RGB PNG"),
        pytest.param(tiff(9, 9, SIXTEEN_BITS.tobytes()), (128, 1, 255), id="16-bit RGB TIFF"),
        pytest.param(
            deep_png(np.dstack([SIXTEEN_BITS, np.zeros((9, 9), np.uint16)])), (255, 255, 255), id="16-bit RGBA PNG"
        ),
        pytest.param(encode(Image.new("1", (9, 9), 1), "PNG"), (255, 255, 255), id="bilevel"),
        pytest.param(encode(Image.new("P", (9, 9), 0), "PNG"), (0, 0, 0), id="palette"),
        pytest.param(palette_with_transparency(), (255, 255, 255), id="palette with transparency"),
        pytest.param(encode(Image.new("CMYK", (9, 9), (0, 255, 255, 0)), "TIFF"), (255, 0, 0), id="CMYK TIFF"),
    ],
)
def test_modes(data: bytes, expected: tuple[int, int, int]) -> None:
    pixels = load_image(data, 5).pixels
    np.testing.assert_array_equal(pixels, np.broadcast_to(np.array(expected, np.uint8), (5, 5, 3)))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param(Image.new("CMYK", (9, 9), (0, 255, 255, 0)), (255, 0, 0), id="CMYK with Adobe's inverted inks"),
        pytest.param(Image.new("L", (9, 9), 77), (77, 77, 77), id="grey"),
    ],
)
@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
def test_jpegs(image: Image.Image, expected: tuple[int, int, int], progressive: bool) -> None:
    data = encode(image, "JPEG", progressive=progressive)
    assert (b"Adobe" in data) == (image.mode == "CMYK")
    np.testing.assert_allclose(load_image(data, 5).pixels[2, 2], expected, atol=12)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_taken(kind: str) -> None:
    data = encode(halves("red", "red"), kind, save_all=True, append_images=[halves("blue", "blue")])
    np.testing.assert_allclose(load_image(data, 8).pixels[4, 4], (255, 0, 0), atol=12)


def test_large_pictures_are_converted_strip_by_strip_without_a_seam() -> None:
    """3 strips of the 2**20 pixels that are converted at a time."""
    ramp = np.linspace(0, 255, 2500, dtype=np.uint8)[:, None].repeat(1000, axis=1)
    image = Image.fromarray(np.dstack([ramp, 255 - ramp, ramp, ramp]))
    on_white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    at_once = np.asarray(on_white.resize((50, 50), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(load_image(encode(image, "PNG", compress_level=1), 50).pixels, at_once, atol=1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "^the file is empty$", id="empty file"),
        pytest.param(b"not an image, whatever its name", "not an image of a known format", id="text"),
        pytest.param(b"\0\0\0\x14ftypmp42\0\0\0\0isom", "not an image of a known format", id="video"),
        pytest.param(EPS, "not an image of a known format", id="EPS"),
        pytest.param(encode(halves("red", "blue"), "JPEG")[:-200], "JPEG cannot .* ends too early", id="cut JPEG"),
        pytest.param(encode(halves("red", "blue"), "PNG")[:60], "PNG cannot .* ends too early", id="cut PNG"),
        pytest.param(encode(halves("red", "blue"), "GIF")[:8], "GIF cannot .* ends too early", id="cut GIF"),
        pytest.param(encode(halves("red", "blue"), "AVIF")[:200], "this AVIF cannot be decoded", id="cut AVIF"),
        pytest.param(encode_heic(halves("red", "blue"))[:-9], "this HEIC cannot be decoded", id="cut HEIC"),
        pytest.param(
            png(12_000, 12_000, 8, 2), "12000 x 12000 pixels are more than the limit of 100,000,000", id="PNG"
        ),
        pytest.param(PNG_BOMB, "60000 x 60000 pixels are more", id="more than Pillow itself allows"),
        pytest.param(gif_bomb(), "65535 x 65535 pixels are more", id="GIF canvas"),
        pytest.param(TEXT_BOMB, "PNG cannot .* ends too early", id="text chunk and no pixels"),
        pytest.param(TILE_BOMB, "tiles of 16000 x 16000 pixels are larger than the picture", id="TIFF tile"),
        pytest.param(jpeg_bomb(), "65500 x 65500 pixels are more", id="JPEG"),
        pytest.param(jpeg_bomb(0xC2), "65500 x 65500 pixels are more", id="progressive JPEG"),
    ],
)
def test_refuses(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_image(data, 8)


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param((b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**21))), id="text of 2 MiB"),
        pytest.param((b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(bytes(2**21))), id="workflow of 2 MiB"),
        pytest.param((b"iCCP", b"icc\0\0" + zlib.compress(bytes(2**21))), id="profile of 2 MiB"),
        pytest.param((b"tEXt", b"Comment\0wrong"), id="text with a wrong checksum"),
    ],
)
def test_pngs_with_more_than_pillow_reads_beside_the_pixels(extra: tuple[bytes, bytes]) -> None:
    pixels = (b"IDAT", zlib.compress(b"\0\x0a\x14\x1e"))
    rotated = (b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")
    data = png(3, 1, 8, 0, extra, rotated, pixels)
    if b"wrong" in extra[1]:
        data = data.replace(b"wrong", b"right")
    loaded = load_picture(data, 9)
    assert loaded.pixels[:, 0, 0].tolist() == [10, 20, 30]


def test_a_jpeg_counts_with_its_reduced_size_where_that_is_all_that_is_held() -> None:
    image = Image.effect_noise((2000, 1000), 50).convert("RGB")
    loaded = load_image(encode(image, "JPEG"), 32, max_pixels=250 * 125)
    assert (loaded.width, loaded.height) == (2000, 1000)
    for refused in (encode(image, "JPEG", progressive=True), encode(image, "PNG", compress_level=1)):
        with pytest.raises(ImageError, match="2000 x 1000 pixels are more than the limit of 31,250"):
            load_image(refused, 32, max_pixels=250 * 125)
    with pytest.raises(ImageError, match="2000 x 1000"):
        load_image(encode(image, "JPEG"), 32, max_pixels=250 * 125 - 1)


@pytest.mark.parametrize(
    ("data", "plain"),
    [
        pytest.param(encode(halves("red", "blue"), "JPEG"), True, id="baseline"),
        pytest.param(encode(halves("red", "blue"), "JPEG", progressive=True), True, id="progressive"),
        pytest.param(encode(halves("red", "blue"), "JPEG").replace(b"\xff\xc0", b"\xff\xc3"), False, id="lossless"),
        pytest.param(encode(halves("red", "blue"), "JPEG").replace(b"\xff\xdb", b"x\xff\xdb", 1), False, id="junk"),
        pytest.param(encode(halves("red", "blue"), "JPEG")[:300], False, id="no scan"),
        pytest.param(jpeg_bomb(), False, id="fewer bytes than its pixels need"),
        pytest.param(jpeg_bomb(0xC2), False, id="progressive and huge"),
        pytest.param(encode(halves("red", "blue"), "PNG"), False, id="PNG"),
        pytest.param(b"", False, id="empty"),
    ],
)
def test_which_jpegs_are_plain(data: bytes, plain: bool) -> None:
    assert is_plain_jpeg(data) == plain


def test_a_progressive_jpeg_of_thousands_of_scans_is_not_plain() -> None:
    data = encode(Image.new("RGB", (1000, 1000)), "JPEG", progressive=True)
    at = data.index(b"\xff\xda")
    assert is_plain_jpeg(data)
    assert not is_plain_jpeg(data[:at] + 100 * data[at:])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_whatever_is_damaged_the_reason_is_one_short_line(kind: str) -> None:
    whole = encode(Image.effect_noise((64, 48), 50).convert("RGB"), kind)
    random = np.random.default_rng(5)
    refused = set()
    for _ in range(60):
        damaged = bytearray(whole[: random.integers(16, len(whole))])
        for at in random.integers(12, len(damaged), 3):
            damaged[at] = random.integers(256)
        try:
            load_image(bytes(damaged), 8)
        except ImageError as error:
            refused.add(str(error))
    assert refused
    for message in refused:
        assert 0 < len(message) < 200
        assert message.isprintable()
        assert not any(sign in message for sign in ("<", "0x", "Traceback"))


@pytest.mark.parametrize(
    ("size", "orientation", "shape"),
    [
        pytest.param((200, 100), 1, (50, 100, 3), id="wide"),
        pytest.param((100, 200), 1, (100, 50, 3), id="high"),
        pytest.param((200, 100), 6, (100, 50, 3), id="turned"),
        pytest.param((4000, 80), 1, (2, 100, 3), id="panorama"),
        pytest.param((4000, 8), 1, (1, 100, 3), id="line"),
        pytest.param((60, 30), 1, (30, 60, 3), id="small"),
        pytest.param((60, 30), 8, (60, 30, 3), id="small and turned"),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_keeps_its_shape_within_the_longest_side(
    size: tuple[int, int], orientation: int, shape: tuple[int, int, int], kind: str
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    found = load_picture(encode(Image.new("RGB", size, (200, 100, 50)), kind, exif=exif), 100)
    assert found.pixels.shape == shape
    assert (found.width, found.height) == (size if orientation == 1 else size[::-1])
    assert np.abs(found.pixels.astype(int) - (200, 100, 50)).max() <= 2


def test_a_jpeg_of_many_pixels_is_decoded_at_a_reduced_size() -> None:
    """The side that the limit is about depends on the shape: a panorama is reduced by its width."""
    panorama = encode(Image.new("RGB", (8000, 400)), "JPEG")
    assert load_picture(panorama, 100, max_pixels=60_000).pixels.shape == (5, 100, 3)
    with pytest.raises(TooManyPixelsError):
        load_picture(panorama, 4000, max_pixels=60_000)


def test_pad_batch_fills_up_with_black() -> None:
    white = np.full((3, 3, 3), 255, np.uint8)
    batch = pad_batch([white, white], 5)
    assert batch.shape == (5, 3, 3, 3)
    assert batch[:2].min() == 255
    assert batch[2:].max() == 0


def test_pad_batch_writes_over_an_earlier_batch_of_its_shape() -> None:
    white, grey = np.full((3, 3, 3), 255, np.uint8), np.full((3, 3, 3), 99, np.uint8)
    first = pad_batch([white, white, white], 4)
    again = pad_batch([grey], 4, out=first)
    assert again is first
    assert (again[0] == 99).all()
    assert again[1:].max() == 0
    assert pad_batch([grey], 2, out=first).shape == (2, 3, 3, 3)
