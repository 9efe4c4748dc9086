"""The training command on a few photographs: it learns, keeps the best epoch, and goes on after an interruption."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model import DEFAULT_BUNDLE, Decoding, check_bundle, load_captioner, load_image
from model.training.train import main
from tests.conftest import ROOT
from tests.model.small_training import SAID, SMALL, log_of, train

LITE = "--backbone=efficientnet_lite0"


def test_it_learns_what_it_is_shown(parquet: str, photographs, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    assert train(parquet, bundle, "--epochs=40", "--learning_rate=0.01", "--dropout=0", "--batch_size=2") == 0
    log = log_of(bundle)
    assert len(log) == 40
    assert log[-1]["loss"] < log[0]["loss"] - 1
    assert max(epoch["validation_cider"] for epoch in log) > 50
    captioner = load_captioner(bundle, Decoding("greedy"))  # as its epochs were compared
    cat = load_image(photographs["chelsea.png"].read_bytes(), 64).pixels
    assert "cat" in captioner.caption(cat[None])[0][0].text


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(parquet: str, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(parquet, whole, "--epochs=3") == 0
    program = STOP_AFTER_FIRST_EPOCH + "train.main(sys.argv[1:])"
    arguments = [f"--data={parquet}", f"--validation={parquet}", f"--output={parts}", *SMALL, "--epochs=3"]
    killed = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, cwd=ROOT, check=False)
    assert killed.returncode == 9
    assert train(parquet, parts, "--epochs=3") == 0
    assert len(log_of(parts)) == 3
    np.testing.assert_allclose([e["loss"] for e in log_of(parts)], [e["loss"] for e in log_of(whole)], rtol=1e-3)


STOP_AFTER_FIRST_EPOCH = """
import os, sys
import pytest
from model.training import train, trainer
from tests.model.small_training import use_small_network
use_small_network(pytest.MonkeyPatch())
finish = trainer.Trainer._finish
trainer.Trainer._finish = lambda self, *epoch: (finish(self, *epoch), os._exit(9))
"""


def test_a_checkpoint_of_other_options_is_refused(parquet: str, tmp_path: Path, capsys) -> None:
    assert train(parquet, tmp_path / "bundle", "--epochs=1") == 0
    assert train(parquet, tmp_path / "bundle", "--epochs=2") == 2
    assert "made with other options" in capsys.readouterr().err


def test_coco_json_with_an_image_folder(photographs, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in SAID:
        (folder / name).write_bytes(photographs[name].read_bytes())
    captions = [{"image_id": n, "caption": c} for n, name in enumerate(SAID) for c in SAID[name]]
    images = [{"id": n, "file_name": name} for n, name in enumerate(SAID)]
    (tmp_path / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    bundle = tmp_path / "bundle"
    assert (
        main([f"--data={tmp_path}/captions.json", f"--images={folder}", f"--output={bundle}", *SMALL, "--epochs=1"])
        == 0
    )
    assert check_bundle(bundle)
    assert "5 images" in (bundle / "MODEL_CARD.md").read_text()  # the sixth was held out


def test_epochs_are_compared_by_the_mean_of_all_sets(parquet: str, tmp_path: Path, capsys) -> None:
    assert train(parquet, tmp_path / "bundle", f"--validation={parquet}", "--epochs=1") == 0  # it is given twice
    output = capsys.readouterr().out
    assert "12 for validation" in output
    scores = re.search(r"validation CIDEr of each set: ([\d.]+), ([\d.]+)", output)
    assert scores is not None
    assert scores[1] == scores[2] == f"{log_of(tmp_path / 'bundle')[0]['validation_cider']:.1f}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--data=nowhere.parquet"], "no Parquet file at nowhere.parquet", id="no data"),
        pytest.param(["--data=nowhere.json"], "no such file: nowhere.json", id="no JSON"),
        pytest.param(["--data=DATA", "--epochs=0"], "epochs must be a whole number from 1, not 0", id="no epoch"),
        pytest.param(
            ["--data=DATA", "--backbone_weights=imagenet", LITE], "`python -m model convert ", id="lite weights"
        ),
        pytest.param(["--data=DATA", "--backbone_weights=lost.safetensors"], "lost.safetensors", id="lost weights"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], message: str, parquet: str, tmp_path: Path, capsys) -> None:
    arguments = [argument.replace("DATA", parquet) for argument in arguments]
    assert main([*SMALL, f"--output={tmp_path}/bundle", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_weights_file_that_is_not_whole_is_one_line(parquet: str, tmp_path: Path, capsys) -> None:
    shipped = load_file(f"{DEFAULT_BUNDLE}/weights.safetensors")
    save_file({n: a for n, a in shipped.items() if not n.endswith("001/bias")}, tmp_path / "lacking.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "lacking.safetensors").read_bytes()[:5000])
    for name, message in (("cut", "is not a whole safetensors file"), ("lacking", "lacks '001/bias'")):
        arguments = [f"--backbone_weights={tmp_path}/{name}.safetensors", "--method=finetune", LITE]
        assert train(parquet, tmp_path / "bundle", *arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_weights_that_cannot_be_downloaded_say_what_to_do(parquet: str, tmp_path: Path) -> None:
    arguments = [f"--data={parquet}", f"--output={tmp_path}/bundle", "--backbone=resnet50_v2", "--input_size=64"]
    unreachable = {"https_proxy": "http://127.0.0.1:9", "KERAS_HOME": str(tmp_path / "keras")}
    done = subprocess.run(
        [sys.executable, "-m", "model", "train", *arguments],
        env=os.environ | unreachable,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "could not be downloaded" in done.stderr.splitlines()[-1]
    assert "--backbone_weights=none" in done.stderr.splitlines()[-1]
