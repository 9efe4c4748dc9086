"""What a GPU gets, forced on the CPU: the whole captioner compiled with XLA, and an encoder in float16."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from model import DEFAULT_BUNDLE, CaptionerConfig, Decoding, load_captioner
from model.captioner import Captioner
from model.devices import default_batch_size
from model.engine_choice import choose_precision
from model.network import build_network
from model.training.start import backbone_arrays, load_backbone

NOISE = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)


def texts(captioner: Captioner, images: np.ndarray) -> list[list[str]]:
    return [[caption.text for caption in captions] for captions in captioner.caption(images)]


def scores(captioner: Captioner, images: np.ndarray) -> list[list[float]]:
    return [[caption.score for caption in captions] for captions in captioner.caption(images)]


class OneConvolution(keras.layers.Layer):
    """An encoder that is compiled in no time."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = keras.layers.Conv2D(13, 16, strides=16, activation="relu")
        self.backbone.build((None, 64, 64, 3))
        self.backbone.output_shape = (None, 4, 4, 13)

    def call(self, images: tf.Tensor) -> tf.Tensor:
        return tf.reshape(self.backbone(tf.cast(images, tf.float32) / 255.0), (-1, 16, 13))


@pytest.fixture(scope="module")
def made(tiny_bundle) -> Captioner:
    return load_captioner(tiny_bundle)


@pytest.mark.parametrize(
    "decoding",
    [
        pytest.param(Decoding("beam", num_captions=2), id="beam"),
        pytest.param(Decoding("greedy"), id="greedy"),
        pytest.param(Decoding("sample", num_captions=2, seed=5), id="sample"),
    ],
)
def test_xla_compiles_every_method_and_says_the_same(decoding: Decoding, made: Captioner) -> None:
    parts = (made.config, made.vocabulary, OneConvolution(), made.decoder)
    graph, compiled = (
        Captioner(*parts, decoding=decoding, engine=engine, log=lambda _: None) for engine in ("tensorflow", "xla")
    )
    assert (graph.engine, compiled.engine) == ("tensorflow", "xla")
    assert texts(compiled, NOISE) == texts(graph, NOISE)
    np.testing.assert_allclose(scores(compiled, NOISE), scores(graph, NOISE), atol=1e-4)


def test_xla_compiles_an_encoder_in_float16_once_for_a_size_of_batch(tiny_bundle) -> None:
    graph = load_captioner(tiny_bundle, precision="float16")
    parts = (graph.config, graph.vocabulary, graph.encoder, graph.decoder)
    told: list[str] = []
    compiled = Captioner(*parts, engine="xla", log=told.append)
    np.testing.assert_allclose(scores(compiled, NOISE), scores(graph, NOISE), atol=1e-2)
    compiled.caption(NOISE[::-1])
    [line] = told
    assert line.startswith("compiled with XLA in ")
    assert line.endswith(" s: batches of 3 images, encoder in float16")


def test_float16_is_the_encoders_inside_alone() -> None:
    """The variables, the features and all of the decoder stay float32; so does what is built afterwards."""
    backbone = backbone_arrays(f"{DEFAULT_BUNDLE}/weights.safetensors", trainable=True)
    features = []
    for precision in ("float32", "float16"):
        keras.utils.set_random_seed(0)
        encoder, decoder = build_network(CaptionerConfig(input_size=64, units=13), 9, precision=precision)
        load_backbone(encoder, backbone, "the bundled model")
        assert encoder.compute_dtype == precision
        assert {variable.dtype for variable in encoder.variables} == {"float32"}
        assert decoder.to_vocabulary.compute_dtype == keras.layers.Dense(1).compute_dtype == "float32"
        features.append(np.asarray(encoder(NOISE)))
    wanted, found = features
    assert found.dtype == np.float32
    assert 0 < np.abs(found - wanted).max() < 0.02 * wanted.max()


class PretendedGpus:
    """Stands for TensorFlow's list of GPUs, each with a compute capability, or none where it is not NVIDIA's."""

    def __init__(self, *capabilities: tuple[int, int] | None) -> None:
        self.capabilities = capabilities

    def list_physical_devices(self, kind: str) -> list[int]:
        return list(range(len(self.capabilities))) if kind == "GPU" else []

    def get_device_details(self, device: int) -> dict[str, object]:
        capability = self.capabilities[device]
        return {"device_name": "GPU"} | ({"compute_capability": capability} if capability else {})

    def set_memory_growth(self, device: int, grow: bool) -> None:
        pass


@pytest.mark.parametrize(
    ("gpus", "precision", "batch_size"),
    [
        pytest.param(PretendedGpus(), "float32", 32, id="CPU"),
        pytest.param(PretendedGpus((9, 0)), "float16", 256, id="H100"),
        pytest.param(PretendedGpus((7, 5), (7, 0)), "float16", 256, id="T4 and V100"),
        pytest.param(PretendedGpus((6, 1)), "float32", 256, id="P100"),
        pytest.param(PretendedGpus(None), "float32", 256, id="of another maker"),
    ],
)
def test_what_suits_the_device(
    gpus: PretendedGpus, precision: str, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tf.config, "list_physical_devices", gpus.list_physical_devices)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", gpus.get_device_details)
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", gpus.set_memory_growth)
    assert choose_precision("auto", "auto") == precision
    assert choose_precision("litert", "auto") == choose_precision("auto", "float32") == "float32"
    assert choose_precision("auto", "float16") == "float16"
    assert default_batch_size() == batch_size


def test_float16_is_never_litert(tiny_bundle) -> None:
    assert load_captioner(tiny_bundle, engine="auto", precision="float16").engine == "tensorflow"
    with pytest.raises(ValueError, match="--engine=litert computes in float32"):
        load_captioner(tiny_bundle, engine="litert", precision="float16")
    with pytest.raises(ValueError, match="--precision must be one of auto, float32, float16, not 'int8'"):
        load_captioner(tiny_bundle, precision="int8")
