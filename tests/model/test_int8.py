"""A backbone that computes with 8-bit whole numbers: the same on both engines, and close to what it was made from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from model import CaptionerConfig, load_captioner, load_image
from model.bundle import check_bundle, load_config, save_bundle
from model.engine_choice import EngineError
from model.training.data import read_examples
from model.training.features import Views, cached_features
from model.training.quantize import best_range, few_bits, main
from tests.conftest import has_package
from tests.model.small_training import log_of, train

needs_litert = pytest.mark.skipif(not has_package("ai_edge_litert"), reason="no LiteRT for this platform")
SIZE = 64


@pytest.fixture(scope="module")
def float_bundle(parquet: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An epoch from random weights, then a normalization as long trainings leave it: each channel has its own."""
    bundle = tmp_path_factory.mktemp("int8") / "float"
    assert train(parquet, bundle, "--epochs=1", "--backbone=efficientnet_lite0", "--backbone_weights=none") == 0
    captioner = load_captioner(bundle)
    rng = np.random.default_rng(0)
    for layer in captioner.encoder.backbone.layers:
        if layer.name.endswith("_norm"):
            *_, variance = layer.get_weights()
            gamma, beta, mean = rng.uniform(0.5, 2, variance.shape), rng.normal(0.5, 0.5, variance.shape), 0 * variance
            layer.set_weights([gamma, beta, mean, variance])
    save_bundle(bundle, captioner, card="")
    return bundle


@pytest.fixture(scope="module")
def int8_bundle(float_bundle: Path, parquet: str) -> Path:
    bundle = float_bundle.with_name("int8")
    assert main([str(float_bundle), f"--data={parquet}", f"--output={bundle}"]) == 0
    return bundle


@pytest.fixture(scope="module")
def pixels(photographs: dict[str, Path]) -> np.ndarray:
    return np.stack([load_image(path.read_bytes(), SIZE).pixels for path in photographs.values()])


@needs_litert
def test_both_engines_come_to_the_same_features(int8_bundle: Path, pixels: np.ndarray, tmp_path: Path) -> None:
    from model.litert_converter import convert_encoder
    from model.litert_encoder import LiteRtEncoder

    encoder = load_captioner(int8_bundle).encoder
    through_litert = LiteRtEncoder(convert_encoder(encoder.grid, SIZE, int8=True))(pixels)
    np.testing.assert_array_equal(through_litert, encoder.grid(pixels))
    assert through_litert.max() > 0


@needs_litert
def test_it_is_executed_with_whole_numbers(int8_bundle: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    from model.litert_converter import convert_encoder

    interpreter = Interpreter(model_content=convert_encoder(load_captioner(int8_bundle).encoder.grid, SIZE, int8=True))
    kernels = [
        tensor for tensor in interpreter.get_tensor_details() if len(tensor["shape"]) == 4 and tensor["shape"][0] > 1
    ]
    assert len(kernels) > 30
    assert {tensor["dtype"] for tensor in kernels} == {np.int8}


def test_it_is_close_to_where_it_comes_from(float_bundle: Path, int8_bundle: Path, pixels: np.ndarray) -> None:
    wanted = np.asarray(load_captioner(float_bundle).encoder.grid(pixels))
    found = np.asarray(load_captioner(int8_bundle).encoder.grid(pixels))
    assert np.square(found - wanted).sum() < 0.1 * np.square(wanted - wanted.mean()).sum()


def test_a_bundle_of_it_is_a_bundle(int8_bundle: Path, float_bundle: Path, pixels: np.ndarray, tmp_path: Path) -> None:
    assert load_config(int8_bundle).int8
    assert check_bundle(int8_bundle) != check_bundle(float_bundle)
    captioner = load_captioner(int8_bundle)
    assert all(caption.text for [caption] in captioner.caption(pixels))
    kernels = [
        a for name, a in load_file(int8_bundle / "weights.safetensors").items() if "backbone" in name and a.ndim == 4
    ]
    for kernel in kernels:
        np.testing.assert_array_equal(kernel, np.round(kernel))
        assert np.abs(kernel).max() == 127
        assert not np.signbit(kernel[kernel == 0]).any()


def test_the_decoder_learns_from_what_it_sees(int8_bundle: Path, parquet: str, tmp_path: Path) -> None:
    before = load_file(int8_bundle / "weights.safetensors")
    bundle = tmp_path / "bundle"
    assert train(parquet, bundle, f"--init={int8_bundle}", "--epochs=4", "--dropout=0", "--learning_rate=0.01") == 0
    after = load_file(bundle / "weights.safetensors")
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert not any("backbone" in name for name in changed)
    assert log_of(bundle)[-1]["loss"] < log_of(bundle)[0]["loss"]


def test_where_it_learns_it_is_back_in_floating_point(int8_bundle: Path, parquet: str, tmp_path: Path, pixels) -> None:
    assert train(parquet, tmp_path / "bundle", f"--init={int8_bundle}", "--method=finetune", "--tuned_share=0.1") == 0
    assert not load_config(tmp_path / "bundle").int8
    # The first step of a training is a small one.
    wanted = np.asarray(load_captioner(int8_bundle).encoder.grid(pixels))
    found = np.asarray(load_captioner(tmp_path / "bundle").encoder.grid(pixels))
    assert np.square(found - wanted).sum() < 0.1 * np.square(wanted - wanted.mean()).sum()


@pytest.mark.parametrize("method", ["frozen", "finetune"])
def test_its_weights_serve_another_training(method: str, int8_bundle: Path, parquet: str, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    options = [f"--backbone_weights={int8_bundle}/weights.safetensors", f"--method={method}", "--epochs=1"]
    options.append("--backbone=efficientnet_lite0")
    assert train(parquet, bundle, *options) == 0
    assert load_config(bundle).int8 == (method == "frozen")
    before, after = (load_file(folder / "weights.safetensors") for folder in (int8_bundle, bundle))
    if method == "frozen":
        assert all(np.array_equal(after[name], a) for name, a in before.items() if "backbone" in name)


def test_twice_is_once_too_often(int8_bundle: Path, parquet: str, tmp_path: Path, capsys) -> None:
    assert main([str(int8_bundle), f"--data={parquet}", f"--output={tmp_path}/again"]) == 2
    assert capsys.readouterr().err == f"model quantize: {int8_bundle} has an 8-bit backbone already\n"


def test_another_backbone_has_no_such_form(parquet: str, tmp_path: Path, capsys) -> None:
    bundle = tmp_path / "other"
    options = ["--backbone=efficientnet_v2_b0", "--backbone_weights=none", "--epochs=1"]
    assert train(parquet, bundle, *options) == 0
    capsys.readouterr()
    assert main([str(bundle), f"--data={parquet}", f"--output={tmp_path}/int8"]) == 2
    assert "int8 is for an EfficientNet-Lite, not for efficientnet_v2_b0" in capsys.readouterr().err


@pytest.mark.parametrize("value", [1, "yes", None])
def test_a_configuration_that_says_neither(value: object) -> None:
    with pytest.raises(ValueError, match="int8 must be true or false"):
        CaptionerConfig(int8=value)


@needs_litert
def test_features_are_kept_as_tensorflow_has_them(
    int8_bundle: Path, parquet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, examples, views = load_captioner(int8_bundle).encoder, read_examples(parquet), Views(3)
    kept = []
    for most in (10**9, 1):  # pictures, from which on LiteRT is asked
        monkeypatch.setattr("model.training.features._MIN_FOR_LITERT", most)
        kept.append(cached_features(encoder, examples, tmp_path / str(most), views))
    np.testing.assert_array_equal(*kept)


def test_features_without_litert_are_tensorflows_and_told(
    int8_bundle: Path, parquet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def refused(*_: object) -> bytes:
        raise EngineError("not for this backbone")

    encoder, examples = load_captioner(int8_bundle).encoder, read_examples(parquet)
    monkeypatch.setattr("model.training.features._MIN_FOR_LITERT", 1)
    monkeypatch.setattr("model.training.features.convert_encoder", refused)
    features = cached_features(encoder, examples, tmp_path / "kept", Views(1))
    assert features.shape[:2] == (len(examples), 1)
    assert "by TensorFlow, which is slower: not for this backbone" in capsys.readouterr().out


def test_the_best_range_gives_up_what_is_rare() -> None:
    values = np.append(np.random.default_rng(0).normal(0, 1, 1_000_000), [12.0]).astype(np.float32)
    step, zero = best_range(values)
    assert 255 * step < 14
    assert zero * step == pytest.approx(-values.min(), abs=2)
    assert best_range(np.abs(values))[1] == 0


def test_products_of_steps_are_exact() -> None:
    steps = few_bits(np.random.default_rng(0).uniform(1e-6, 1, 1000).astype(np.float32))
    products = np.outer(steps, steps)
    assert products.dtype == np.float32
    np.testing.assert_array_equal(products, np.outer(steps.astype(np.float64), steps.astype(np.float64)))
