"""JPEGs whose last bytes are missing: captioned if at most a tenth of the picture is."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from model import ImageError, load_image
from tests.images import encode


@pytest.fixture(params=[False, True], ids=["baseline", "progressive"])
def jpeg(photographs, request: pytest.FixtureRequest) -> bytes:
    image = Image.open(io.BytesIO(photographs["rocket.jpg"].read_bytes())).convert("RGB")
    return encode(image, "JPEG", progressive=request.param)


@pytest.mark.parametrize("missing", [1, 2, 3, 20])
def test_last_bytes(jpeg: bytes, missing: int) -> None:
    whole, cut = load_image(jpeg, 97), load_image(jpeg[:-missing], 97)
    assert (cut.width, cut.height) == (whole.width, whole.height)
    assert np.abs(cut.pixels.astype(int) - whole.pixels).mean() < 1


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9], ids=lambda share: f"{share:.0%}")
def test_a_part_of_the_file(jpeg: bytes, share: float) -> None:
    with pytest.raises(ImageError, match="this JPEG cannot be decoded: the file ends too early"):
        load_image(jpeg[: -int(share * len(jpeg))], 97)


def test_a_large_picture_that_is_decoded_at_a_reduced_size() -> None:
    noise = encode(Image.effect_noise((2000, 1600), 60).convert("RGB"), "JPEG")
    assert load_image(noise[:-2], 97).width == 2000
    with pytest.raises(ImageError, match="ends too early"):
        load_image(noise[: -len(noise) // 2], 97)
