"""Six photographs with captions, and the training command in its smallest form."""

from __future__ import annotations

import json
from pathlib import Path

from model import DEFAULT_BUNDLE
from model.train import main

SAID = {
    "astronaut.png": ["a woman in an orange suit smiles", "a smiling woman before a flag"],
    "chelsea.png": ["a cat looks up", "a brown cat", "the face of a cat"],
    "coffee.png": ["a cup of coffee on a table"],
    "rocket.jpg": ["a rocket stands on its pad", "a white rocket at night"],
    "china.jpg": ["a temple under a blue sky"],
    "flower.jpg": ["a red flower", "a flower in bloom"],
}
SMALL = [
    f"--backbone_weights={DEFAULT_BUNDLE}/weights.safetensors",
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
