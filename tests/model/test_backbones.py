"""Every backbone learns: a few steps of the training command from random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model import check_bundle, load_captioner
from model.backbones import BACKBONES
from model.training.train import main
from tests.model.small_training import log_of

_SIZES = {"inception_resnet_v2": 128}  # a grid of 2 x 2; the others have it at 64


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_few_steps(backbone: str, parquet: str, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    size = _SIZES.get(backbone, 64)
    options = [f"--backbone={backbone}", "--backbone_weights=none", f"--input_size={size}", "--units=16"]
    options += ["--views=1", "--min_count=1", "--batch_size=2", "--epochs=2", "--learning_rate=0.01", "--dropout=0"]
    assert main([f"--data={parquet}", f"--validation={parquet}", f"--output={bundle}", *options]) == 0
    first, second = log_of(bundle)
    assert second["loss"] < first["loss"]
    assert check_bundle(bundle).startswith(f"{backbone}-")
    [[caption]] = load_captioner(bundle).caption(np.zeros((1, size, size, 3), np.uint8))
    assert caption.text
    assert np.isfinite(caption.score)
