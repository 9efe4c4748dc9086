"""The cache of features: it is shared where the images are the same, and never anywhere else."""

from __future__ import annotations

import multiprocessing
import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model import load_captioner
from model.network import Encoder
from model.training.data import Example
from model.training.features import Views, cached_features, cached_images
from tests.images import encode


def examples(*colours: str) -> list[Example]:
    """Images without names: their ids are row numbers."""
    images = [encode(Image.new("RGB", (64, 64), colour), "PNG") for colour in colours]
    return [Example(str(row), image, ("a colour",)) for row, image in enumerate(images)]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """That of the bundled model: random weights may give the same features for all images."""
    return load_captioner().encoder


def test_other_images_of_the_same_names_have_their_own_features(encoder: Encoder, tmp_path: Path) -> None:
    cache = tmp_path / "train"
    first = cached_features(encoder, examples("red", "green"), cache, Views(1))
    second = cached_features(encoder, examples("blue", "black"), cache, Views(1))
    expected = cached_features(encoder, examples("blue", "black"), tmp_path / "elsewhere", Views(1))
    np.testing.assert_array_equal(second, expected)
    assert not np.array_equal(first, second)


def test_the_same_images_share_them_whatever_their_names(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cached_features(encoder, examples("red", "green"), tmp_path / "train", Views(2))
    renamed = [Example(f"photo-{row}", e.image, ("other words",)) for row, e in enumerate(examples("red", "green"))]
    monkeypatch.setattr("model.training.data.load_image", None)  # nothing is decoded
    np.testing.assert_array_equal(cached_features(encoder, renamed, tmp_path / "train", Views(2)), first)


def test_the_order_belongs_to_the_key(encoder: Encoder, tmp_path: Path) -> None:
    first = cached_features(encoder, examples("red", "green"), tmp_path / "train", Views(1))
    second = cached_features(encoder, examples("green", "red"), tmp_path / "train", Views(1))
    np.testing.assert_array_equal(first[0], second[1])


def test_a_file_that_changes_in_its_place_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    found = []
    for colour in ("red", "blue"):
        path.write_bytes(encode(Image.new("RGB", (64, 64), colour), "PNG"))
        found.append(cached_images(8, [Example("image.png", path, ("x",))], tmp_path / "train")[0, 0, 0].tolist())
    assert found == [[255, 0, 0], [0, 0, 255]]


@pytest.mark.parametrize("size", [8, 9])
def test_sizes_do_not_meet(size: int, tmp_path: Path) -> None:
    for side in (8, 9):
        cached_images(side, examples("red"), tmp_path / "train")
    assert cached_images(size, examples("red"), tmp_path / "train").shape == (1, size, size, 3)


def test_caches_of_an_earlier_format_are_left_alone(tmp_path: Path) -> None:
    """They were keyed by names."""
    old = tmp_path / "train-0123456789abcdef.npy"
    old.write_bytes(b"old")
    cached_images(8, examples("red"), tmp_path / "train")
    assert old.read_bytes() == b"old"
    assert len(list(tmp_path.glob("*.npy"))) == 2


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    cached_images(8, examples("red"), tmp_path / "train")
    [path] = tmp_path.glob("*.npy")
    path.write_bytes(path.read_bytes()[:140])
    with pytest.raises(ValueError, match=f"{path} is damaged; delete it"):
        cached_images(8, examples("red"), tmp_path / "train")


def compute_with_little_disk(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    try:
        cached_images(100, examples("red"), folder / "train")
    except OSError as error:
        (folder / "error").write_text(str(error))


def test_no_space_is_an_error_and_leaves_no_data(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=compute_with_little_disk, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert "File too large" in (tmp_path / "error").read_text()
    assert not list(tmp_path.glob("*.npy"))
    assert sum(path.stat().st_size for path in tmp_path.glob("*.partial")) == 0
    assert cached_images(100, examples("red"), tmp_path / "train").shape == (1, 100, 100, 3)
