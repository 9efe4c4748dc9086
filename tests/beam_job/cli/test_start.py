"""`--help` and wrong usage answer without waiting for large imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

from beam_job.cli.options import option_names

REQUIRED = ["--input=photos", "--output=out"]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "beam_job", *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        pytest.param(["--help"], 0, id="help"),
        pytest.param(["--version"], 0, id="version"),
        pytest.param([], 2, id="nothing"),
        pytest.param([*REQUIRED, "--batch_size=0"], 2, id="out of range"),
        pytest.param([*REQUIRED, "--batch_size=x"], 2, id="no number"),
        pytest.param([*REQUIRED, "--runner=DataflowRunner"], 2, id="Dataflow without a project"),
        pytest.param([*REQUIRED, "--gpu=nvidia-l4"], 2, id="a GPU without Dataflow"),
    ],
)
def test_help_and_wrong_usage_wait_for_nothing_large(arguments: list[str], code: int) -> None:
    done = command(*arguments)
    assert done.returncode == code
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "beam_job.cli.options" in imported
    assert not imported & {"tensorflow", "keras", "apache_beam", "pyarrow", "google.cloud.storage"}


def test_help_names_every_option_with_its_default() -> None:
    text = command("--help").stdout
    for name in option_names():
        assert name in text
    assert text.count("(default:") >= 14
