"""Captioners of other makers: a SavedModel through the whole job, and what is said of functions that make none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf
from PIL import Image

from beam_job.captioning.captioners import captioner_of_run
from beam_job.cli.command import main
from beam_job.config import JobConfig
from model import CaptionerError, Decoding
from tests.outputs import table

MAKE = "--captioner=tests.saved_model_captioner:make"


class Brightness(tf.Module):
    """Says how bright an image is."""

    @tf.function(input_signature=[tf.TensorSpec((None, 48, 48, 3), tf.uint8)])
    def caption(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        mean = tf.reduce_mean(tf.cast(images, tf.float32), axis=(1, 2, 3))
        return tf.strings.join(["brightness ", tf.strings.as_string(mean, precision=0)]), -mean / 100.0


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    tf.saved_model.save(Brightness(), str(folder))
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for brightness in (10, 20, 30):
        Image.new("L", (80, 60), brightness).save(tmp_path / "photos" / f"{brightness}.png")
    return tmp_path / "photos"


def test_a_saved_model_through_the_job(
    saved_model: Path, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--input={photos}", f"--output={tmp_path}/out", MAKE, f"--model={saved_model}"]
    assert main(arguments) == 0
    rows = table(tmp_path / "out", "captions")
    assert [(row["caption"], row["width"], row["height"]) for row in rows] == [
        ("brightness 10", 80, 60),
        ("brightness 20", 80, 60),
        ("brightness 30", 80, 60),
    ]
    assert [row["score"] for row in rows] == pytest.approx([-0.1, -0.2, -0.3])
    [version] = {row["model_version"] for row in rows}
    assert version.startswith("saved-")
    [summary] = tmp_path.glob("out/runs/*/summary.json")
    assert json.loads(summary.read_text())["model"] == version
    Image.new("L", (80, 60), 40).save(photos / "40.png")
    assert main(arguments) == 0  # the next night
    assert "1 image in 1 shard, 3 images already done, skipped" in capfd.readouterr().err
    assert [row["caption"] for row in table(tmp_path / "out", "captions")][3:] == ["brightness 40"]


def no_version(model: str | None, decoding: Decoding) -> object:
    return object()


class Sizeless:
    version = "1"
    input_size = "48"


def sizeless(model: str | None, decoding: Decoding) -> object:
    return Sizeless()


def failing(model: str | None, decoding: Decoding) -> object:
    raise ValueError(f"no model {model}\nfor {decoding.method}")


def exiting(model: str | None, decoding: Decoding) -> object:
    sys.exit(0)


def leaving(model: str | None, decoding: Decoding) -> object:
    os._exit(0)


class ExitingVersion:
    input_size = 48

    @property
    def version(self) -> str:
        sys.exit(0)


def exiting_version(model: str | None, decoding: Decoding) -> object:
    return ExitingVersion()


HERE = "tests.beam_job.captioning.test_captioners"


@pytest.mark.parametrize(
    ("captioner", "message"),
    [
        pytest.param("no_such_module:make", "No module named 'no_such_module'; its folder must be", id="module"),
        pytest.param(f"{HERE}:nothing", f"{HERE} has no function nothing", id="function"),
        pytest.param(f"{HERE}:HERE", f"{HERE} has no function HERE", id="no function"),
        pytest.param(f"{HERE}:failing", "failed: ValueError: no model x for beam", id="it fails"),
        pytest.param(f"{HERE}:exiting", "exiting(model, decoding) failed: it called exit(0)", id="sys.exit"),
        pytest.param(f"{HERE}:leaving", "leaving(model, decoding) failed: it called exit(0)", id="os._exit"),
        pytest.param(f"{HERE}:exiting_version", "version or input_size failed: it called exit(0)", id="version exits"),
        pytest.param("tests.exiting_module:make", "cannot be imported: it called exit(0)", id="module exits"),
        pytest.param(f"{HERE}:no_version", "the captioner's version must be text, not None", id="version"),
        pytest.param(f"{HERE}:sizeless", "input_size must be a whole number from 1, not '48'", id="size"),
    ],
)
def test_what_makes_no_captioner_is_refused_in_one_line(
    captioner: str, message: str, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([f"--input={photos}", f"--output={tmp_path}/out", f"--captioner={captioner}", "--model=x"]) == 2
    error = capfd.readouterr().err
    assert error.startswith(f"caption-images: --captioner={captioner}: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["load", "sys.exit"])
def test_a_captioner_that_calls_exit_is_no_success(method: str, photos: Path, tmp_path: Path, capfd) -> None:
    arguments = [f"--input={photos}", f"--output={tmp_path}/out", "--captioner=tests.leaving_captioner:make"]
    assert main([*arguments, f"--model={method}"]) == 1
    printed = capfd.readouterr().err
    assert "called exit(0)" in printed.splitlines()[-1]
    assert "Traceback" not in printed
    assert not list(tmp_path.glob("out/runs/*/_SUCCESS"))


@pytest.mark.parametrize("method", ["os._exit", "fork"])
def test_a_captioner_that_ends_the_process_is_no_success(method: str, photos: Path, tmp_path: Path) -> None:
    """In a process of its own, which might end."""
    command = [sys.executable, "-m", "beam_job", f"--input={photos}", f"--output={tmp_path}/out"]
    command += ["--captioner=tests.leaving_captioner:make", f"--model={method}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    if method == "fork":
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode == 1, done.stderr
    assert "called exit(0)" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("out/runs/*/_SUCCESS"))


def test_a_worker_with_another_version_refuses(saved_model: Path) -> None:
    config = JobConfig(("photos",), "out", captioner="tests.saved_model_captioner:make", model=str(saved_model))
    with pytest.raises(CaptionerError, match="the run started with version saved-0, and a worker has saved-"):
        captioner_of_run(config, "saved-0")
