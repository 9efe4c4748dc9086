"""`python -m model`: its help, its answers to wrong usage, and what it prints without --verbose."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from model import check_bundle
from model.__main__ import COMMANDS, main

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    return subprocess.run(
        [sys.executable, "-m", "model", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment | {"PYTHONPATH": str(ROOT)},
        **options,
    )


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert listed == ["train", "evaluate", "explain", "compare", "quantize", "blend", "extend", "shrink", "convert"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    assert f"usage: python -m model {name}" in capsys.readouterr().out


def test_help_does_not_wait_for_tensorflow() -> None:
    commands = ("train", "evaluate", "explain", "compare", "blend", "extend", "shrink", "convert")
    names = [f"model.training.{name}" for name in commands]
    program = f"import sys, {', '.join(names)}; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "no command given; use one of train, evaluate,", id="none"),
        pytest.param(["tain"], "unknown command 'tain'; did you mean 'train'?", id="misspelt"),
        pytest.param(["quantise"], "unknown command 'quantise'; did you mean 'quantize'?", id="British"),
        pytest.param(["fly"], "unknown command 'fly'; use one of train, evaluate,", id="unknown"),
        pytest.param(["--data=x"], "unknown command '--data=x'; use one of", id="option first"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        pytest.param(["train", "--dta=x"], "train: unknown option --dta; did you mean --data?", id="misspelt"),
        pytest.param(["explain", "--output=x"], "explain: IMAGE is required; see python -m model", id="one missing"),
        pytest.param(["quantize"], "quantize: BUNDLE, --data and --output are required; see", id="three missing"),
        pytest.param(["evaluate", "--data=x", "--epochs=1"], "evaluate: unknown argument --epochs=1", id="unknown"),
        pytest.param(["convert", "--variant=3"], "convert: --variant must be one of 0, 2, not '3'", id="choice"),
    ],
)
def test_wrong_usage_of_a_command_is_one_line(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"model {line}")
    assert error.count("\n") == 1


def test_only_verbose_shows_what_tensorflow_logs(tiny_bundle: Path, photographs, tmp_path: Path) -> None:
    options = [f"--output={tmp_path}/out", f"--model={tiny_bundle}"]
    quiet = run("explain", str(photographs["chelsea.png"]), *options)
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert quiet.stdout.startswith(f"{tmp_path}/out/chelsea.png.png: ")
    verbose = run("--verbose", "explain", "nowhere.jpg", *options)
    assert (verbose.returncode, verbose.stdout) == (1, "")
    *logs, error = verbose.stderr.splitlines()
    assert logs  # TensorFlow names the instructions of the CPU, and that there is no GPU
    assert error == "model explain: nowhere.jpg: No such file or directory"


def test_errors_are_shown_without_verbose_too(tmp_path: Path) -> None:
    done = run("explain", "dog.jpg", f"--output={tmp_path}/out", f"--model={tmp_path}/nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith(f"model explain: no model at {tmp_path}/nowhere")
    assert done.stderr.count("\n") == 1


def test_a_full_disk_is_one_line_and_loses_nothing(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    before = check_bundle(bundle)
    done = run(
        *("blend", str(tiny_bundle), f"--output={bundle}", "--length_penalty=2"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert (done.returncode, done.stderr) == (2, f"model blend: {bundle}: File too large\n")
    assert check_bundle(bundle) == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("limit", [500_000_000, 2_000_000_000])
def test_too_little_memory_for_tensorflow_is_one_line(limit: int, tmp_path: Path) -> None:
    done = run(
        *("explain", "dog.jpg", f"--output={tmp_path}/out"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert done.returncode == 2
    assert done.stderr.startswith("model explain: the limit of ")
    assert done.stderr.count("\n") == 1
