"""A backbone that computes with 8-bit whole numbers: the same on both engines, and close to what it was made from."""

from __future__ import annotations

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model import CaptionerConfig, load_captioner, load_image
from model.bundle import check_bundle, load_config
from model.bundle_writer import save_bundle
from model.captioner import Captioner
from model.engine_choice import EngineError
from model.network import Encoder, build_network, named_backbone_variables
from model.training.data import read_examples
from model.training.features import Views, cached_features
from model.training.quantize import best_range, few_bits, main
from model.training.rounding import round_weights
from model.training.start import create_captioner
from model.training.train_options import parse_train_options
from model.vocabulary import Vocabulary
from tests.bundles import reseal
from tests.conftest import has_package
from tests.model.small_training import SAID, log_of, train

needs_litert = pytest.mark.skipif(not has_package("ai_edge_litert"), reason="no LiteRT for this platform")
SIZE = 64


@pytest.fixture(scope="module")
def float_captioner() -> Captioner:
    """Random weights, and a normalization as long trainings leave it: each channel has its own."""
    keras.utils.set_random_seed(0)
    vocabulary = Vocabulary.build([text for captions in SAID.values() for text in captions], 1)
    config = CaptionerConfig("efficientnet_lite0", input_size=SIZE, units=16, embedding_units=16)
    captioner = Captioner(config, vocabulary, *build_network(config, len(vocabulary)))
    rng = np.random.default_rng(0)
    for layer in captioner.encoder.backbone.layers:
        if layer.name.endswith("_norm"):
            *_, variance = layer.get_weights()
            gamma, beta, mean = rng.uniform(0.5, 2, variance.shape), rng.normal(0.5, 0.5, variance.shape), 0 * variance
            layer.set_weights([gamma, beta, mean, variance])
    return captioner


@pytest.fixture(scope="module")
def float_bundle(float_captioner: Captioner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("int8") / "float"
    save_bundle(bundle, float_captioner, card="")
    return bundle


@pytest.fixture(scope="module")
def int8_bundle(float_bundle: Path, parquet: str) -> Path:
    bundle = float_bundle.with_name("int8")
    assert main([str(float_bundle), f"--data={parquet}", f"--output={bundle}"]) == 0
    return bundle


@pytest.fixture(scope="module")
def int8_captioner(int8_bundle: Path) -> Captioner:
    return load_captioner(int8_bundle)


@pytest.fixture(scope="module")
def converted(int8_captioner: Captioner) -> bytes:
    """Its backbone for LiteRT."""
    from model.litert_converter import convert_encoder

    return convert_encoder(int8_captioner.encoder.grid, SIZE, int8=True)


@pytest.fixture(scope="module")
def pixels(photographs: dict[str, Path]) -> np.ndarray:
    return np.stack([load_image(path.read_bytes(), SIZE).pixels for path in photographs.values()])


@needs_litert
def test_both_engines_come_to_the_same_features(
    int8_captioner: Captioner, converted: bytes, pixels: np.ndarray
) -> None:
    from model.litert_encoder import open_litert

    through_litert = open_litert(converted)(pixels)
    np.testing.assert_array_equal(through_litert, int8_captioner.encoder.grid(pixels))
    assert through_litert.max() > 0


@needs_litert
def test_it_is_executed_with_whole_numbers(converted: bytes) -> None:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=converted)
    kernels = [
        tensor for tensor in interpreter.get_tensor_details() if len(tensor["shape"]) == 4 and tensor["shape"][0] > 1
    ]
    assert len(kernels) > 30
    assert {tensor["dtype"] for tensor in kernels} == {np.int8}


def assert_close(encoder: Encoder, wanted: Encoder, pixels: np.ndarray) -> None:
    found, wanted = np.asarray(encoder.grid(pixels)), np.asarray(wanted.grid(pixels))
    assert np.square(found - wanted).sum() < 0.1 * np.square(wanted - wanted.mean()).sum()


def test_it_is_close_to_where_it_comes_from(
    float_captioner: Captioner, int8_captioner: Captioner, pixels: np.ndarray
) -> None:
    assert_close(int8_captioner.encoder, float_captioner.encoder, pixels)


def test_a_bundle_of_it_is_a_bundle(
    int8_captioner: Captioner, int8_bundle: Path, float_bundle: Path, pixels: np.ndarray
) -> None:
    assert load_config(int8_bundle).int8
    assert check_bundle(int8_bundle) != check_bundle(float_bundle)
    assert all(caption.text for [caption] in int8_captioner.caption(pixels))
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
    assert train(parquet, bundle, f"--init={int8_bundle}", "--epochs=3", "--dropout=0", "--learning_rate=0.01") == 0
    after = load_file(bundle / "weights.safetensors")
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert not any("backbone" in name for name in changed)
    assert log_of(bundle)[-1]["loss"] < log_of(bundle)[0]["loss"]


@pytest.mark.parametrize("method", ["frozen", "finetune"])
@pytest.mark.parametrize("source", ["--init={}", "--backbone_weights={}/weights.safetensors"])
def test_where_its_backbone_learns_it_is_back_in_floating_point(
    method: str, source: str, int8_bundle: Path, int8_captioner: Captioner, parquet: str, pixels: np.ndarray
) -> None:
    options = [f"--data={parquet}", "--output=unused", source.format(int8_bundle), f"--method={method}"]
    options += [f"--input_size={SIZE}", "--min_count=1", "--units=16"]
    if "backbone" in source:
        options.append("--backbone=efficientnet_lite0")
    start, _ = create_captioner(parse_train_options(None, options), read_examples(parquet))
    assert start.config.int8 == (method == "frozen")
    if method == "finetune":
        assert_close(start.encoder, int8_captioner.encoder, pixels)
        return
    for name, variable in named_backbone_variables(int8_captioner.encoder).items():
        np.testing.assert_array_equal(named_backbone_variables(start.encoder)[name], variable)


def test_an_8_bit_bundle_is_only_rounded_again(
    int8_bundle: Path, int8_captioner: Captioner, parquet: str, pixels: np.ndarray, tmp_path: Path
) -> None:
    """Bundles of earlier versions have odd weights."""
    odd = Path(shutil.copytree(int8_bundle, tmp_path / "odd"))
    arrays = load_file(odd / "weights.safetensors")
    for name, array in arrays.items():
        if name.endswith("/kernel") and "backbone" in name and array.shape[-1] > 1:
            arrays[name] = np.where(np.abs(array) < 127, np.clip(array + 1, -127, 127), array)
    save_file(arrays, odd / "weights.safetensors")
    reseal(odd)
    assert main([str(odd), f"--data={parquet}", f"--output={tmp_path}/again"]) == 0
    again = load_file(tmp_path / "again" / "weights.safetensors")
    assert share_of_odd(again) == 0
    assert {name for name in arrays if not np.array_equal(arrays[name], again[name])} == {
        name for name in arrays if name.endswith("/kernel") and "backbone" in name and arrays[name].shape[-1] > 1
    }


def share_of_odd(arrays: dict[str, np.ndarray]) -> float:
    """Of the weights of convolutions that are not depthwise, and not the largest of their channel."""
    kernels = [array for name, array in arrays.items() if "backbone" in name and array.ndim == 4]
    weights = np.concatenate([kernel.ravel() for kernel in kernels if kernel.shape[-1] > 1])
    return float(np.mean(weights[np.abs(weights) < 127] % 2 != 0))


def test_weights_are_even_so_that_halved_they_have_7_bits(int8_bundle: Path) -> None:
    assert share_of_odd(load_file(int8_bundle / "weights.safetensors")) == 0


def test_rounding_makes_up_for_its_errors() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(1000, 6)) @ rng.normal(size=(6, 24)) + 0.1 * rng.normal(size=(1000, 24))  # dependent
    weights = rng.normal(0, 30, (24, 40)).clip(-127, 127)
    weights[3] = 127
    rounded = round_weights(weights, inputs.T @ inputs / 1000)
    assert (rounded[3] == 127).all()
    assert (np.delete(rounded, 3, axis=0) % 2 == 0).all()
    plain = 2 * np.round(weights / 2)
    plain[3] = 127
    assert np.square(inputs @ (rounded - weights)).mean() < 0.3 * np.square(inputs @ (plain - weights)).mean()


def test_inputs_that_never_vary_are_no_reason_to_fail() -> None:
    weights = np.array([[127.0, 3.2], [40.7, -127.0]])
    np.testing.assert_array_equal(round_weights(weights, np.zeros((2, 2))), [[127, 4], [40, -127]])


def test_another_backbone_has_no_such_form(tiny_bundle: Path, tmp_path: Path, capsys) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    config = (bundle / "config.json").read_text()
    (bundle / "config.json").write_text(config.replace("efficientnet_lite0", "resnet50_v2"))
    reseal(bundle)
    assert main([str(bundle), "--data=unused", f"--output={tmp_path}/int8"]) == 2
    assert "int8 is for an EfficientNet-Lite, not for resnet50_v2" in capsys.readouterr().err


@pytest.mark.parametrize("value", [1, "yes", None])
def test_a_configuration_that_says_neither(value: object) -> None:
    with pytest.raises(ValueError, match="int8 must be true or false"):
        CaptionerConfig(int8=value)


@needs_litert
def test_features_are_kept_as_tensorflow_has_them(
    int8_captioner: Captioner, converted: bytes, parquet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, examples, views = int8_captioner.encoder, read_examples(parquet), Views(3)
    monkeypatch.setattr("model.training.features.convert_encoder", lambda *_: converted)
    kept = []
    for most in (10**9, 1):  # pictures, from which on LiteRT is asked
        monkeypatch.setattr("model.training.features._MIN_FOR_LITERT", most)
        kept.append(cached_features(encoder, examples, tmp_path / str(most), views))
    np.testing.assert_array_equal(*kept)


def test_features_without_litert_are_tensorflows_and_told(
    int8_captioner: Captioner, parquet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def refused(*_: object) -> bytes:
        raise EngineError("not for this backbone")

    encoder, examples = int8_captioner.encoder, read_examples(parquet)
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
