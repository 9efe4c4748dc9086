"""Six photographs with captions, and the training command in its smallest form."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from safetensors.numpy import save_file

from model import DEFAULT_BUNDLE
from model.training.start import backbone_arrays
from model.training.train import main

SAID = {
    "astronaut.png": ["a woman in an orange suit smiles", "a smiling woman before a flag"],
    "chelsea.png": ["a cat looks up", "a brown cat", "the face of a cat"],
    "coffee.png": ["a cup of coffee on a table"],
    "rocket.jpg": ["a rocket stands on its pad", "a white rocket at night"],
    "china.jpg": ["a temple under a blue sky"],
    "flower.jpg": ["a red flower", "a flower in bloom"],
}
# The backbone of the model that ships, in floating point: it can learn, and what it sees is worth learning from.
_FOLDER = tempfile.TemporaryDirectory()
_WEIGHTS = f"{_FOLDER.name}/backbone.safetensors"
save_file(backbone_arrays(f"{DEFAULT_BUNDLE}/weights.safetensors", trainable=True), _WEIGHTS)
SMALL = [
    f"--backbone_weights={_WEIGHTS}",
    "--input_size=64",
    "--units=16",
    "--min_count=1",
    "--batch_size=4",
]


def log_of(bundle: Path) -> list[dict]:
    log = bundle.parent / f"{bundle.name}.training" / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()]


def train(parquet: str, bundle: Path, *options: str) -> int:
    return main([f"--data={parquet}", f"--validation={parquet}", f"--output={bundle}", *SMALL, *options])
