"""A bundle: round trip, version, and what is said of a damaged one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model import BundleError, check_bundle, load_captioner
from model.bundle import CHECKSUMS, DEFAULT_BUNDLE, assign_weights, load_config
from model.bundle_writer import save_bundle
from model.captioner import Captioner
from model.network import named_variables
from tests.bundles import reseal
from tests.conftest import WORDS


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy to harm."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def loaded(tiny_bundle: Path) -> Captioner:
    return load_captioner(tiny_bundle)


@pytest.fixture
def captioner(loaded: Captioner) -> Iterator[Captioner]:
    """A captioner whose decoder a test may change."""
    before = loaded.decoder.get_weights()
    yield loaded
    loaded.decoder.set_weights(before)


def test_round_trip_gives_the_same_network_and_version(bundle: Path, captioner: Captioner, tmp_path: Path) -> None:
    version = save_bundle(tmp_path / "again", captioner, card="")
    assert version == captioner.version == check_bundle(bundle)
    again = load_captioner(tmp_path / "again")
    assert (again.config, again.vocabulary.words) == (captioner.config, captioner.vocabulary.words)
    found = named_variables(again.encoder, again.decoder)
    for name, variable in named_variables(captioner.encoder, captioner.decoder).items():
        np.testing.assert_array_equal(found[name], variable)


def test_float32_keeps_every_bit(captioner: Captioner, tmp_path: Path) -> None:
    captioner.decoder.gru.cell.kernel.assign(captioner.decoder.gru.cell.kernel + 1e-6)
    save_bundle(tmp_path / "exact", captioner, card="", dtype="float32")
    again = load_captioner(tmp_path / "exact")
    np.testing.assert_array_equal(again.decoder.gru.cell.kernel, captioner.decoder.gru.cell.kernel)


def test_files_are_plain_data(bundle: Path) -> None:
    assert json.loads((bundle / "config.json").read_text())["units"] == 13
    assert (bundle / "vocabulary.txt").read_text().split()[4:] == list(WORDS)
    assert all(array.dtype == np.float16 for array in load_file(bundle / "weights.safetensors").values())


def test_version_follows_the_content_but_not_the_card(bundle: Path, captioner: Captioner) -> None:
    before = check_bundle(bundle)
    (bundle / "MODEL_CARD.md").write_text("other words")
    assert check_bundle(bundle) == before
    captioner.decoder.to_vocabulary.bias.assign(captioner.decoder.to_vocabulary.bias + 1)
    assert save_bundle(bundle, captioner, card="") != before


@pytest.mark.parametrize("name", ["config.json", "vocabulary.txt", "weights.safetensors"])
def test_a_changed_byte_is_noticed(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"damaged: {name} differs from its checksum"):
        load_captioner(bundle)


@pytest.mark.parametrize("name", ["config.json", "vocabulary.txt", "weights.safetensors", CHECKSUMS])
def test_a_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        check_bundle(bundle)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such folder"):
        check_bundle(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("config.json", b"[1, 2]", "bad config.json", id="config of another form"),
        pytest.param("config.json", b'{"units": -4}', "units must be a whole number from 1", id="config out of range"),
        pytest.param("config.json", b'{"import": "os"}', "bad config.json", id="config with an unknown key"),
        pytest.param("vocabulary.txt", b"a\nb\n", "vocabulary starts with", id="no vocabulary"),
        pytest.param("weights.safetensors", b"\x80\x04pickle", "cannot be built", id="weights of another format"),
    ],
)
def test_resealed_but_wrong(bundle: Path, name: str, content: bytes, message: str) -> None:
    (bundle / name).write_bytes(content)
    reseal(bundle)
    with pytest.raises(BundleError, match=message):
        load_captioner(bundle)


def test_arrays_of_another_shape_are_named(bundle: Path, loaded: Captioner) -> None:
    arrays = load_file(bundle / "weights.safetensors")
    arrays["decoder/gru/bias"] = arrays["decoder/gru/bias"][:, 1:].copy()
    save_file(arrays, bundle / "weights.safetensors")
    with pytest.raises(BundleError, match="decoder/gru/bias has shape"):
        assign_weights(bundle / "weights.safetensors", loaded.encoder, loaded.decoder)


def test_a_missing_array_is_named(bundle: Path, loaded: Captioner) -> None:
    arrays = load_file(bundle / "weights.safetensors")
    del arrays["decoder/gru/bias"]
    save_file(arrays, bundle / "weights.safetensors")
    with pytest.raises(BundleError, match="first difference: decoder/gru/bias"):
        assign_weights(bundle / "weights.safetensors", loaded.encoder, loaded.decoder)


def test_the_model_that_ships_is_whole_and_small() -> None:
    assert check_bundle(DEFAULT_BUNDLE).startswith("efficientnet_lite2-")
    assert sum(path.stat().st_size for path in DEFAULT_BUNDLE.iterdir()) < 30e6
    assert load_config(DEFAULT_BUNDLE).input_size == 256
