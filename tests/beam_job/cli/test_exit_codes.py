"""What the command ends with: 1 after a run with too many failures or a broken model, 2 before anything is written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from beam_job.cli.command import main
from tests.bundles import reseal
from tests.outputs import only_run, table


@pytest.mark.parametrize(
    ("limit", "code"), [pytest.param("0.2", 1, id="too many"), pytest.param("0.4", 0, id="within the limit")]
)
def test_the_exit_code_tells_of_too_many_failures(
    limit: str, code: int, folder: Path, tmp_path: Path, tiny_bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    arguments = [f"--input={folder}", f"--output={output}", f"--model={tiny_bundle}", f"--max_failure_ratio={limit}"]
    assert main(arguments) == code
    assert len(table(output, "captions")) + len(table(output, "failures")) == 9  # what was done stands
    assert (only_run(output) / "_SUCCESS").exists() == (code == 0)
    assert ("33% of the images failed, more than --max_failure_ratio=0.2" in capfd.readouterr().err) == (code == 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--input=nowhere"], "--input: nowhere does not exist", id="input missing"),
        pytest.param(["--input=ftp://b/x"], "unknown scheme ftp://", id="input of another scheme"),
        pytest.param(["--input=.", "--model=nowhere"], "no model at nowhere", id="model missing"),
        pytest.param(["--input=.", "--model={bundle}/.."], "config.json is missing", id="no bundle"),
        pytest.param(["--input={photos}", "--output=ftp://b/x"], "unknown scheme ftp://", id="output scheme"),
        pytest.param(["--input={photos}", "--shard_sise=2"], "did you mean --shard_size?", id="misspelt"),
        pytest.param(["--input={photos}", "--runner=NoRunner"], "NoRunner", id="no such runner"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2_before_anything_is_written(
    arguments: list[str],
    message: str,
    folder: Path,
    tmp_path: Path,
    tiny_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    filled = [argument.format(photos=folder, bundle=tiny_bundle) for argument in arguments]
    assert main([f"--output={work}/out", *filled]) == 2
    error = capfd.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(work.iterdir()) == []


def test_without_a_gpu_a_run_that_requires_one_is_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, tiny_bundle: Path
) -> None:
    """In a process that has not imported TensorFlow yet, whose own messages would come between."""
    arguments = [f"--input={folder}", f"--output={tmp_path}/out", f"--model={tiny_bundle}", "--require_gpu"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-m", "beam_job", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("caption-images: --require_gpu: TensorFlow sees no GPU on this machine; ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_worker_without_the_gpu_that_is_required_refuses_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    from beam_job.captioning.caption_shards import CaptionShards
    from beam_job.config import JobConfig
    from beam_job.planning.run import Run, RunManifest
    from model.devices import NoGpuError

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    config = JobConfig(("photos",), str(tmp_path), require_gpu=True)
    run = Run(str(tmp_path), "r1")
    run.storage.write(run.manifest, RunManifest("model-1", {}, {}, 1, 1, 0).to_json())
    with pytest.raises(NoGpuError, match="--require_gpu"):
        CaptionShards(config, run).setup()


def test_an_output_that_is_a_file_is_wrong_usage(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("a file")
    assert main([f"--input={folder}", f"--output={tmp_path}/out"]) == 2
    assert capfd.readouterr().err.startswith("caption-images: ")


def test_a_model_that_breaks_the_run_is_code_1(
    folder: Path, tmp_path: Path, tiny_bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A vocabulary of another size, with checksums that fit: seen only when the model is built."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for path in tiny_bundle.iterdir():
        (bundle / path.name).write_bytes(path.read_bytes())
    with (bundle / "vocabulary.txt").open("a") as vocabulary:
        vocabulary.write("surplus\n")
    reseal(bundle)
    assert main([f"--input={folder}", f"--output={tmp_path}/out", f"--model={bundle}"]) == 1
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("caption-images: run ")
    assert "has shape" in last
