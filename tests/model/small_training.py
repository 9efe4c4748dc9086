"""Six photographs with captions, and the training command in its smallest form."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import pytest
from keras import layers

from model.backbones import BACKBONES, Backbone
from model.training.train import main

SAID = {
    "astronaut.png": ["a woman in an orange suit smiles", "a smiling woman before a flag"],
    "chelsea.png": ["a cat looks up", "a brown cat", "the face of a cat"],
    "coffee.png": ["a cup of coffee on a table"],
    "rocket.jpg": ["a rocket stands on its pad", "a white rocket at night"],
    "china.jpg": ["a temple under a blue sky"],
    "flower.jpg": ["a red flower", "a flower in bloom"],
}
_STAND_IN = "resnet50_v2"  # its name is given to a network of three convolutions
SMALL = [f"--backbone={_STAND_IN}", "--backbone_weights=none", "--input_size=64"]
SMALL += ["--units=16", "--min_count=1", "--batch_size=4"]


def use_small_network(patch: pytest.MonkeyPatch) -> None:
    """Makes trainings with `SMALL` small: a real backbone takes seconds to build, and is not what is tested."""
    patch.setitem(BACKBONES, _STAND_IN, Backbone(_STAND_IN, 64, 1 / 128, -127 / 128, _small))


def _small(input_size: int, weights: str | None, int8: bool) -> keras.Model:
    assert weights is None
    assert not int8
    images = x = keras.Input((input_size, input_size, 3))
    for filters, stride in ((8, 2), (16, 4), (32, 4)):
        x = layers.Conv2D(filters, stride + 1, stride, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return keras.Model(images, x)


def log_of(bundle: Path) -> list[dict]:
    log = bundle.parent / f"{bundle.name}.training" / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()]


def train(parquet: str, bundle: Path, *options: str) -> int:
    return main([f"--data={parquet}", f"--validation={parquet}", f"--output={bundle}", *SMALL, *options])
