"""A bundle between others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from model import DEFAULT_BUNDLE, load_captioner, load_image
from model.bundle_writer import save_bundle
from model.config import Decoding
from model.training.blend import main


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
    assert main([str(tiny_bundle), str(moved), "--shares=0.75,0.25", f"--output={output}"]) == 0
    assert load_captioner(output).version in capsys.readouterr().out
    before, after = (load_file(folder / "weights.safetensors") for folder in (tiny_bundle, output))
    np.testing.assert_allclose(after.pop("decoder/to_vocabulary/bias"), before.pop("decoder/to_vocabulary/bias") + 0.25)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_content_words_once_is_a_choice_of_the_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    main([str(tiny_bundle), "--content_words_once", f"--output={tmp_path / 'once'}"])
    main([str(tmp_path / "once"), "--no-content_words_once", f"--output={tmp_path / 'again'}"])
    assert load_captioner(tmp_path / "once").config.content_words_once
    assert load_captioner(tmp_path / "again").version == load_captioner(tiny_bundle).version


def test_the_middle_of_three(tiny_bundle: Path, moved: Path, tmp_path: Path) -> None:
    output = tmp_path / "middle"
    assert main([str(tiny_bundle), str(moved), str(moved), f"--output={output}"]) == 0
    before, after = (load_file(folder / "weights.safetensors") for folder in (tiny_bundle, output))
    name = "decoder/to_vocabulary/bias"
    np.testing.assert_allclose(after[name].astype(float), before[name] + 2 / 3, atol=1e-3)


def test_a_larger_picture_is_that_of_the_last(tiny_bundle: Path, moved: Path, tmp_path: Path) -> None:
    captioner = load_captioner(moved)
    captioner.config = replace(captioner.config, input_size=96)
    save_bundle(moved, captioner, card="")
    assert main([str(tiny_bundle), str(moved), f"--output={tmp_path}/between"]) == 0
    assert load_captioner(tmp_path / "between").config.input_size == 96


def test_the_length_penalty_that_runs_take_unasked(photographs: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "talkative"
    assert main([str(DEFAULT_BUNDLE), "--length_penalty=9", f"--output={output}"]) == 0
    images = np.stack([load_image(photographs[name].read_bytes(), 256).pixels for name in ("china.jpg", "chelsea.png")])

    def words_of(penalty: float | None) -> list[int]:
        captioner = load_captioner(output, Decoding(length_penalty=penalty))
        return [len(caption.text.split()) for caption, *_ in captioner.caption(images)]

    unasked, asked = words_of(None), words_of(0.0)
    assert min(unasked) > max(asked)
    assert words_of(9.0) == unasked


def test_a_length_penalty_out_of_range(tiny_bundle: Path, moved: Path, tmp_path: Path, capsys) -> None:
    assert main([str(tiny_bundle), str(moved), "--length_penalty=-1", f"--output={tmp_path}/between"]) == 2
    assert "length_penalty must be from 0 to 10, not -1.0" in capsys.readouterr().err


def test_shares_that_are_no_numbers(tiny_bundle: Path, moved: Path, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(tiny_bundle), str(moved), "--shares=half,half", f"--output={tmp_path}/between"])
    assert "'half,half' is not a list of numbers such as" in capsys.readouterr().err


@pytest.mark.parametrize("shares", ["0.5", "0.5,0.6", "0.2,0.3,0.5"])
def test_shares_that_do_not_fit(shares: str, tiny_bundle: Path, moved: Path, tmp_path: Path, capsys) -> None:
    assert main([str(tiny_bundle), str(moved), f"--shares={shares}", f"--output={tmp_path}/between"]) == 2
    assert "--shares must be one for each of 2 bundles, with a sum of 1" in capsys.readouterr().err


def test_bundles_that_do_not_fit(tiny_bundle: Path, moved: Path, tmp_path: Path, capsys) -> None:
    captioner = load_captioner(moved)
    captioner.config = replace(captioner.config, max_words=7)
    save_bundle(moved, captioner, card="")
    assert main([str(tiny_bundle), str(moved), f"--output={tmp_path}/between"]) == 2
    assert "differ in architecture or vocabulary" in capsys.readouterr().err
    assert not (tmp_path / "between").exists()


@pytest.fixture
def decoder_moved(tmp_path: Path) -> Path:
    """The default bundle with another decoder; its 8-bit backbone is the same."""
    captioner = load_captioner(DEFAULT_BUNDLE)
    captioner.decoder.to_vocabulary.bias.assign(captioner.decoder.to_vocabulary.bias + 1)
    save_bundle(tmp_path / "decoder", captioner, card="")
    return tmp_path / "decoder"


def test_an_8_bit_backbone_that_all_share_is_kept(decoder_moved: Path, tmp_path: Path) -> None:
    assert main([str(DEFAULT_BUNDLE), str(decoder_moved), "--shares=0.7,0.3", f"--output={tmp_path}/mean"]) == 0
    before, after = (load_file(folder / "weights.safetensors") for folder in (DEFAULT_BUNDLE, tmp_path / "mean"))
    assert all(np.array_equal(after[name], array) for name, array in before.items() if "backbone" in name)
    assert not np.array_equal(after["decoder/to_vocabulary/bias"], before["decoder/to_vocabulary/bias"])


def test_different_8_bit_backbones_are_averaged_in_floating_point(tmp_path: Path, capsys) -> None:
    captioner = load_captioner(DEFAULT_BUNDLE)
    head = captioner.encoder.backbone.get_layer("head")
    head.step.assign(head.step * 3)  # the value of the integer 1
    save_bundle(tmp_path / "tripled", captioner, card="")
    assert main([str(DEFAULT_BUNDLE), str(tmp_path / "tripled"), f"--output={tmp_path}/mean"]) == 0
    assert "floating-point backbone" in capsys.readouterr().out
    assert main([str(DEFAULT_BUNDLE), str(tmp_path / "mean"), f"--output={tmp_path}/nearer"]) == 0
    given = head_kernel(DEFAULT_BUNDLE)
    np.testing.assert_allclose(head_kernel(tmp_path / "mean"), 2 * given, rtol=2e-3)
    np.testing.assert_allclose(head_kernel(tmp_path / "nearer"), 1.5 * given, rtol=2e-3)


def head_kernel(bundle: Path) -> np.ndarray:
    """Weights of the backbone's last convolution, in floating point."""
    arrays = load_file(bundle / "weights.safetensors")
    kernel = max(name for name in arrays if name.startswith("encoder/backbone/") and name.endswith("/kernel"))
    return arrays[kernel].astype(np.float32) * arrays.get(kernel.replace("kernel", "step"), 1.0)
