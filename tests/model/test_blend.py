"""A bundle between two others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from model import load_captioner
from model.blend import main
from model.bundle import save_bundle


@pytest.fixture
def moved(tiny_bundle: Path, tmp_path: Path) -> Path:
    """The tiny bundle, trained on: with another dropout and one array that is greater by 1."""
    captioner = load_captioner(tiny_bundle)
    captioner.config = replace(captioner.config, dropout=0.1)
    captioner.decoder.to_vocabulary.bias.assign(captioner.decoder.to_vocabulary.bias + 1)
    save_bundle(tmp_path / "moved", captioner, card="")
    return tmp_path / "moved"


def test_a_quarter_of_the_way(tiny_bundle: Path, moved: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "between"
    assert main([str(tiny_bundle), str(moved), "--share=0.25", f"--output={output}"]) == 0
    assert load_captioner(output).version in capsys.readouterr().out
    before, after = (load_file(folder / "weights.safetensors") for folder in (tiny_bundle, output))
    np.testing.assert_allclose(after.pop("decoder/to_vocabulary/bias"), before.pop("decoder/to_vocabulary/bias") + 0.25)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_bundles_that_do_not_fit(tiny_bundle: Path, moved: Path, tmp_path: Path, capsys) -> None:
    captioner = load_captioner(moved)
    captioner.config = replace(captioner.config, max_words=7)
    save_bundle(moved, captioner, card="")
    assert main([str(tiny_bundle), str(moved), f"--output={tmp_path}/between"]) == 2
    assert "differ in architecture or vocabulary" in capsys.readouterr().err
    assert not (tmp_path / "between").exists()
