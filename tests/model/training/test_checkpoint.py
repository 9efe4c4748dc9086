"""A checkpoint belongs to its options and its data; nothing else is resumed, and nothing else is overwritten."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.training.checkpoint import Checkpoint


class Variable:
    """Stands for a variable of Keras."""

    def __init__(self, value: float) -> None:
        self.value = np.float32(value)

    def assign(self, value: np.ndarray) -> None:
        self.value = np.float32(value)

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return np.asarray(self.value)


LOG = [{"epoch": 1, "loss": 2.0}]
RECIPE = {"epochs": 3, "training data": "a" * 64}


def saved(folder: Path) -> Checkpoint:
    checkpoint = Checkpoint(folder, RECIPE)
    checkpoint.save({"x": Variable(7)}, LOG)
    return checkpoint


def test_round_trip(tmp_path: Path) -> None:
    saved(tmp_path)
    variable = Variable(0)
    assert Checkpoint(tmp_path, RECIPE).restore({"x": variable}) == LOG
    assert variable.value == 7
    assert json.loads((tmp_path / "log.jsonl").read_text()) == LOG[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.safetensors", "log.jsonl"]


def test_a_folder_without_one_starts_anew(tmp_path: Path) -> None:
    assert Checkpoint(tmp_path, RECIPE).restore({}) == []


@pytest.mark.parametrize(
    ("recipe", "difference"),
    [
        pytest.param(RECIPE | {"epochs": 4}, "epochs was 3, is 4", id="option"),
        pytest.param(RECIPE | {"training data": "b" * 64}, "training data was aaaaaaaaaaaa..., is bbb", id="data"),
        pytest.param(RECIPE | {"views": 2}, "views was not recorded, is 2", id="of an earlier version"),
    ],
)
def test_another_recipe_is_refused(recipe: dict[str, object], difference: str, tmp_path: Path) -> None:
    saved(tmp_path)
    variable = Variable(0)
    with pytest.raises(ValueError, match=r"checkpoint.safetensors was made with other options or data: ") as caught:
        Checkpoint(tmp_path, recipe).restore({"x": variable})
    assert difference in str(caught.value)
    assert "\n" not in str(caught.value)
    assert variable.value == 0


@pytest.mark.parametrize("content", [b"", b"text", b"\x10" + bytes(7) + b"{}              "])
def test_what_is_not_a_checkpoint_is_named_and_kept(content: bytes, tmp_path: Path) -> None:
    checkpoint = saved(tmp_path)
    checkpoint.path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{checkpoint.path} is damaged or not a checkpoint")):
        checkpoint.restore({"x": Variable(0)})
    assert checkpoint.path.read_bytes() == content


def test_another_programs_log_is_kept(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("theirs")
    with pytest.raises(ValueError, match=r"log\.jsonl exists without a checkpoint"):
        Checkpoint(tmp_path, RECIPE).restore({})
    assert (tmp_path / "log.jsonl").read_text() == "theirs"


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        pytest.param({"captions": ["other words"]}, "training data was", id="captions"),
        pytest.param({"image": "coffee.png"}, "training data was", id="image"),
    ],
)
def test_a_training_is_not_resumed_with_other_data(
    changed: dict[str, object], name: str, parquet: str, photographs, tmp_path: Path, capsys
) -> None:
    from tests.model.small_training import train

    rows = pq.read_table(parquet).to_pylist()
    for row in rows:
        del row["image_id"]  # row numbers name the images
    data = tmp_path / "data.parquet"
    pq.write_table(pa.Table.from_pylist(rows), data)
    assert train(str(data), tmp_path / "bundle", "--epochs=1") == 0
    if "image" in changed:
        changed = {"image": photographs[str(changed["image"])].read_bytes()}
    rows[0] |= changed
    pq.write_table(pa.Table.from_pylist(rows), data)
    capsys.readouterr()
    assert train(str(data), tmp_path / "bundle", "--epochs=1") == 2
    error = capsys.readouterr().err
    assert "was made with other options or data: " in error
    assert name in error
    assert error.count("\n") == 1
