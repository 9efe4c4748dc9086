"""Where the model looked: the weights are the search's own, and the pages show photographs as people see them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from model import Decoding, load_captioner, load_image
from model.training.explain import caption_with_attention, main, overlay


class Recorder:
    """An attention layer that notes its weights."""

    def __init__(self, layer: object) -> None:
        self.layer = layer
        self.seen: list[np.ndarray] = []

    def __call__(self, inputs: list, return_attention_scores: bool = False) -> object:
        context, weights = self.layer(inputs, return_attention_scores=True)
        self.seen.append(np.asarray(weights)[0, 0])
        return (context, weights) if return_attention_scores else context


def test_the_words_are_explained_by_the_weights_that_chose_them(
    photographs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = load_captioner(decoding=Decoding("greedy"))
    pixels = load_image(photographs["chelsea.png"].read_bytes(), captioner.input_size).pixels
    caption, weights = caption_with_attention(captioner, pixels)
    recorder = Recorder(captioner.decoder.attention)
    monkeypatch.setattr(captioner.decoder, "attention", recorder)
    captioner.caption_features(captioner.encoder(pixels[None]))  # the search itself, word by word
    words = caption.text.split()
    side = captioner.input_size // 32
    assert weights.shape == (len(words), side, side)
    np.testing.assert_allclose(weights.sum(axis=(1, 2)), 1, rtol=1e-5)
    np.testing.assert_allclose(weights.reshape(-1, side * side), recorder.seen[: len(words)], rtol=1e-3, atol=1e-6)
    assert np.ptp(weights, axis=0).max() > 0.03  # another word, another look


def test_red_lies_where_the_weight_is_at_the_photographs_own_shape() -> None:
    found = np.asarray(overlay(Image.new("RGB", (80, 20), (100, 100, 100)), np.array([[0, 0], [0, 1]], np.float32)))
    assert found.shape == (20, 80, 3)
    assert found[-1, -1, 0] > 200 > found[-1, -1, 2] < 70
    for place in ((0, 0), (-1, 0), (0, -1)):
        np.testing.assert_allclose(found[place], 100, atol=2)


def test_a_page_for_each_image_upright_and_a_line_for_what_is_none(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = Image.new("RGB", (120, 60), "blue")  # as stored; a viewer shows it upright, with its red end above
    picture.paste("red", (0, 0, 60, 60))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    picture.save(tmp_path / "turned.png", exif=exif)
    (tmp_path / "text.jpg").write_text("hello")
    images = [str(tmp_path / name) for name in ("text.jpg", "turned.png", "missing.png")]
    assert main([*images, f"--output={tmp_path}/out", f"--model={tiny_bundle}"]) == 1
    told = capsys.readouterr()
    assert told.err.startswith(f"model explain: {images[0]}: not an image of a known format")
    assert told.err.endswith(f"\nmodel explain: {images[2]}: No such file or directory\n")
    assert told.out.startswith(f"{tmp_path}/out/turned.png.png: ")
    assert "red is often next to the object" in told.out.splitlines()[-1]
    [path] = (tmp_path / "out").iterdir()
    page = np.asarray(Image.open(path))
    top, left = 8 + 24, 8
    photograph = page[top : top + 240, left : left + 120]
    assert np.all(photograph[:100] == (255, 0, 0))
    assert np.all(photograph[140:] == (0, 0, 255))
    assert np.all(page[top : top + 240, left + 120 : left + 128] == 255)  # the page, beside it


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["a.jpg", "--model=nowhere"], "no model at nowhere", id="no bundle"),
        pytest.param(["a/x.jpg", "b/x.jpg"], "two images are named x.jpg", id="the same name"),
        pytest.param(["a.jpg", "--beam_width=0"], "beam_width must be a whole number from 1, not 0", id="decoding"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, f"--output={tmp_path}/out"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
