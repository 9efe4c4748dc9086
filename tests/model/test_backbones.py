"""Every backbone gives the decoder a grid of features; one of them also learns by the training command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model import check_bundle, load_captioner
from model.backbones import BACKBONES
from model.config import CaptionerConfig
from model.network import build_network
from model.training.train import main
from tests.model.small_training import log_of

_SIZES = {"inception_resnet_v2": 128}  # a grid of 2 x 2; the others have it at 64


@pytest.mark.parametrize("backbone", BACKBONES)
def test_each_sees_a_grid(backbone: str) -> None:
    size = _SIZES.get(backbone, 64)
    config = CaptionerConfig(backbone, input_size=size, units=13, embedding_units=11)
    encoder, _ = build_network(config, 7)
    images = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), np.uint8)
    features = np.asarray(encoder(images))
    assert features.shape == (3, 4, 13)
    assert np.isfinite(features).all()
    assert not np.array_equal(features[0], features[1])
    assert encoder.backbone.trainable_variables


def test_a_few_steps(parquet: str, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    options = ["--backbone=efficientnet_v2_b0", "--backbone_weights=none", "--input_size=64", "--units=16", "--views=1"]
    options += ["--min_count=1", "--batch_size=2", "--epochs=2", "--learning_rate=0.01", "--dropout=0"]
    assert main([f"--data={parquet}", f"--validation={parquet}", f"--output={bundle}", *options]) == 0
    first, second = log_of(bundle)
    assert second["loss"] < first["loss"]
    assert check_bundle(bundle).startswith("efficientnet_v2_b0-")
    [[caption]] = load_captioner(bundle).caption(np.zeros((1, 64, 64, 3), np.uint8))
    assert caption.text
    assert np.isfinite(caption.score)
