"""The encoder through OpenVINO: its features beside LiteRT's, and what is said where it cannot run."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from beam_job.cli.command import main
from model import DEFAULT_BUNDLE, Decoding, load_captioner, load_image, openvino_encoder
from model.engine_choice import EngineError, check_engine
from tests.conftest import has_package

pytestmark = pytest.mark.skipif(
    not (has_package("openvino") and has_package("ai_edge_litert")), reason="no OpenVINO for this platform"
)


def quiet(_: str) -> None:
    """Drops the messages about the engine."""


def pixels_of(photographs: dict[str, Path], size: int) -> np.ndarray:
    return np.stack([load_image(path.read_bytes(), size).pixels for path in photographs.values()])


@pytest.mark.parametrize("bundle", ["shipped", "float32"])
def test_features_are_those_of_litert_except_for_rounding(
    bundle: str, photographs: dict[str, Path], tiny_bundle: Path
) -> None:
    folder = DEFAULT_BUNDLE if bundle == "shipped" else tiny_bundle
    ours, theirs = (load_captioner(folder, engine=engine, log=quiet) for engine in ("openvino", "litert"))
    assert ours.engine == "openvino"
    pixels = pixels_of(photographs, ours.input_size)
    found, expected = ours._encode(pixels), theirs._encode(pixels)
    assert found.shape == expected.shape
    difference = np.sqrt(np.square(found - expected).mean() / np.square(expected - expected.mean()).mean())
    assert difference < (0.2 if bundle == "shipped" else 1e-4)  # 0.4 where sums overflow


def test_it_captions_and_samples(photographs: dict[str, Path]) -> None:
    for decoding in (Decoding(), Decoding("sample", seed=5)):
        ours = load_captioner(decoding=decoding, engine="openvino", log=quiet)
        assert ours.engine == "openvino"
        assert all(caption.text for [caption] in ours.caption(pixels_of(photographs, ours.input_size)))


def test_the_job_runs_with_it(photographs: dict[str, Path], tmp_path: Path) -> None:
    folder = next(iter(photographs.values())).parent
    options = [f"--input={folder}", "--limit=3", f"--output={tmp_path}/out", "--engine=openvino"]
    assert main(options) == 0
    [summary] = (tmp_path / "out" / "runs").glob("*/summary.json")
    found = json.loads(summary.read_text())
    assert found["captions"] == 3
    assert [part["engine"] for part in found["ran_with"]] == ["openvino"]


@pytest.fixture
def odd_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle of an earlier version: more of its weights are odd than is allowed."""
    monkeypatch.setattr(openvino_encoder, "_MAX_ODD", -1.0)


@pytest.mark.parametrize("vnni", [True, False])
def test_weights_of_8_bits_need_vnni(odd_weights: None, vnni: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_encoder, "_adds_products_in_16_bits", lambda: not vnni)
    if vnni:
        assert load_captioner(engine="openvino", log=quiet).engine == "openvino"
        return
    with pytest.raises(EngineError) as raised:
        load_captioner(engine="openvino", log=quiet)
    assert str(raised.value) == (
        "--engine=openvino: the sums of this model's 8-bit weights overflow on a CPU without VNNI; "
        "round them again with `python -m model quantize`; --engine=auto uses what is available"
    )


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else found(name))
    with pytest.raises(EngineError) as raised:
        check_engine("openvino")
    assert str(raised.value) == (
        "--engine=openvino: OpenVINO is not installed (pip install 'caption-images[openvino]'); "
        "--engine=auto uses what is available"
    )


def test_float16_is_refused() -> None:
    with pytest.raises(ValueError, match="--engine=openvino computes in float32; leave out --precision=float16"):
        load_captioner(engine="openvino", precision="float16")
