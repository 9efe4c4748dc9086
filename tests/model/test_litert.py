"""The encoder through LiteRT: features and captions as TensorFlow's, its cache, and what is said without it."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from model import Decoding, load_captioner, load_image
from model.captioner import Captioner
from model.encoder_engine import open_encoder
from model.engine_choice import EngineError, check_engine
from tests.conftest import has_package
from tests.model.given_encoder import GivenEncoder

pytestmark = pytest.mark.skipif(not has_package("ai_edge_litert"), reason="no LiteRT for this platform")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache, which is not the user's."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "caption-images"


class Plain:
    """An encoder that is converted in no time."""

    int8 = False

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        return tf.reshape(tf.cast(images, tf.float32) / 255.0, (-1, 4, 48))


IMAGES = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3), np.uint8)


def opened(told: list[str]) -> np.ndarray:
    """The features of IMAGES, by a new LiteRT encoder."""
    encode = open_encoder("litert", Plain, 8, "checksum", told.append)
    features = encode(IMAGES)
    np.testing.assert_allclose(features, Plain()(IMAGES), rtol=1e-6)
    return features


def test_the_model_that_ships_says_the_same_of_photographs(photographs) -> None:
    keras = load_captioner()
    pixels = np.stack([load_image(path.read_bytes(), keras.input_size).pixels for path in photographs.values()])
    features = keras.encoder(pixels)
    parts = (keras.config, keras.vocabulary, GivenEncoder(lambda _: features), keras.decoder)
    for decoding in (Decoding(num_captions=2), Decoding("greedy"), Decoding("sample", num_captions=2, seed=5)):
        ours = load_captioner(decoding=decoding, engine="litert", log=lambda _: None)
        assert ours.engine == "litert"
        wanted = Captioner(*parts, decoding=decoding).caption(pixels)
        for found, expected in zip(ours.caption(pixels), wanted, strict=True):
            assert [caption.text for caption in found] == [caption.text for caption in expected]
            assert [caption.score for caption in found] == pytest.approx([c.score for c in expected], abs=1e-4)


def test_it_is_converted_once(cache: Path) -> None:
    told: list[str] = []
    opened(told)
    assert len(told) == 1
    assert told[0].startswith("converted the encoder for LiteRT in ")
    assert told[0].endswith(f"kept for later runs in {cache}")
    assert cache.stat().st_mode & 0o777 == 0o700
    opened(told)
    assert len(told) == 1


def test_another_bundle_is_converted_for_itself(cache: Path) -> None:
    for checksum in ("one", "other"):
        open_encoder("litert", Plain, 8, checksum, print)
    assert len(list(cache.iterdir())) == 2


def test_a_damaged_file_is_made_again(cache: Path) -> None:
    told: list[str] = []
    opened(told)
    [path] = cache.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    opened(told)
    assert len(told) == 2
    assert [path.read_bytes() for path in cache.iterdir()] == [whole]


def test_what_others_may_have_written_is_not_run(cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o777)
    told: list[str] = []
    opened(told)
    assert f"the result cannot be cached: {cache} belongs to another user or is writable by others" in told[0]
    assert not any(cache.iterdir())


def test_without_a_place_to_keep_it(cache: Path) -> None:
    cache.write_text("a file where the folder would be")
    told: list[str] = []
    opened(told)
    assert "every process repeats this, because the result cannot be cached: " in told[0]


def test_the_cache_keeps_the_files_last_used(cache: Path) -> None:
    from model import file_cache

    for number in range(7):
        file_cache.put(f"{number:064x}", b"content", ".tflite")
        [path] = cache.glob(f"{number:064x}-*")
        os.utime(path, (number, number))
        file_cache.get(f"{0:064x}", ".tflite")
    kept = [number for number in range(7) if file_cache.get(f"{number:064x}", ".tflite") == b"content"]
    assert kept == [0, 4, 5, 6]
    assert len(list(cache.iterdir())) == 4


@pytest.fixture
def no_litert(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is not installed."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ai_edge_litert" else found(name))


def test_without_the_package_auto_is_tensorflow_and_says_so(no_litert: None) -> None:
    told: list[str] = []
    assert open_encoder("auto", Plain, 8, "checksum", told.append) is None
    assert told == [
        "the encoder runs in TensorFlow, which takes two to five times the CPU time: "
        "LiteRT is not installed (pip install ai-edge-litert)"
    ]


def test_without_the_package_litert_is_refused(no_litert: None) -> None:
    wanted = r"^--engine=litert: LiteRT is not installed \(pip install ai-edge-litert\); --engine=auto uses "
    with pytest.raises(EngineError, match=wanted):
        check_engine("litert")
    with pytest.raises(EngineError, match=wanted):
        open_encoder("litert", Plain, 8, "checksum", print)


class Unconvertible:
    """An encoder whose operation LiteRT does not have."""

    int8 = False

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        return tf.reshape(tf.strings.length(tf.strings.as_string(images)), (1, -1))


class Misunderstood:
    """An encoder whose conversion goes wrong."""

    int8 = False

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        mean = tf.reduce_mean(tf.cast(images, tf.float32), axis=(1, 2))
        return 1.01 * mean if tf.inside_function() else mean


@pytest.mark.parametrize(
    ("encoder", "reason"),
    [
        pytest.param(Unconvertible, "the encoder cannot be converted for LiteRT: ", id="unknown operation"),
        pytest.param(Misunderstood, "LiteRT's features differ from TensorFlow's by ", id="other features"),
    ],
)
def test_an_encoder_that_litert_cannot_run(encoder: object, reason: str, cache: Path) -> None:
    told: list[str] = []
    assert open_encoder("auto", encoder, 8, "checksum", told.append) is None
    assert told[0].startswith(f"the encoder runs in TensorFlow, which takes two to five times the CPU time: {reason}")
    with pytest.raises(EngineError, match=f"^--engine=litert: {reason}"):
        open_encoder("litert", encoder, 8, "checksum", told.append)
    assert not any(cache.iterdir())


def test_with_a_gpu_auto_is_tensorflow_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("model.encoder_engine.open_gpus", lambda: 1)
    assert open_encoder("auto", Plain, 8, "checksum", told.append) is None
    assert told == []


def test_no_such_engine() -> None:
    with pytest.raises(ValueError, match="engine must be one of auto, tensorflow, litert, openvino, not 'onnx'"):
        load_captioner(engine="onnx")
