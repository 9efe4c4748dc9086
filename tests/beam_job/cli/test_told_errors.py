"""What goes wrong first for a newcomer: exit code 2, three lines at most, and a word on what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from beam_job import storage
from beam_job.cli.command import main
from tests.conftest import ROOT
from tests.fault_server import serve, status


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with photographs, an empty folder, and a model that is none."""
    for name in ("photos", "empty", "no_model"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (32, 32), "red").save(tmp_path / "photos" / "red.jpg")
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param("--input=photos --outptu=out --output=out", "did you mean --output", id="misspelt option"),
        pytest.param(
            "--input=fotos --output=out",
            "fotos does not exist; check the spelling",
            id="wrong path",
        ),
        pytest.param(
            "--input=photos/*.png --output=out", "photos/*.png; check the spelling", id="a glob that matches nothing"
        ),
        pytest.param(
            "--input=photos --output=out --model=no_model",
            "config.json is missing; name a folder that `python -m model train` wrote",
            id="a model that is none",
        ),
        pytest.param(
            "--input=photos --output=out --model=nowhere",
            "no such folder; name one that `python -m model train` wrote",
            id="a model that is not there",
        ),
        pytest.param(
            "--input=photos --output=file/out",
            "a part of this path is a file, name another",
            id="an output below a file",
        ),
        pytest.param("--input=photos --output=out --gpu=nvidia-l4", "--require_gpu", id="a GPU for this machine"),
        pytest.param("--input=photos --output=out --runner=DataflowRunner", "--project=PROJECT", id="half of Dataflow"),
    ],
)
def test_a_mistake_is_told_in_three_lines(
    arguments: str, told: str, desk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = set(desk.rglob("*"))
    assert main(arguments.split()) == 2
    assert_tells(capfd.readouterr().err, told)
    assert set(desk.rglob("*")) == before, "nothing is written"


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param("--input=locked --output=out", id="input"),
        pytest.param("--input=photos --output=fixed/out", id="output"),
        pytest.param("--input=photos --output=out --model=locked", id="model"),
    ],
)
def test_no_rights(arguments: str, desk: Path) -> None:
    (desk / "locked").mkdir(mode=0o000)
    (desk / "fixed").mkdir(mode=0o555)
    before = set(desk.rglob("*"))
    command = [sys.executable, "-m", "beam_job", *arguments.split()]
    if os.geteuid() == 0:  # who may do all, unless that right is given up
        if not shutil.which("setpriv"):
            pytest.skip("needs setpriv (util-linux) where the tests run as root")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert_tells(done.stderr, "Permission denied; change its ")
    assert set(desk.rglob("*")) == before, "nothing is written"


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param("--input=gs://theirs/photos/ --output=out", id="input"),
        pytest.param("--input=photos --output=gs://theirs/out", id="output"),
        pytest.param("--input=photos --output=out --model=gs://theirs/model", id="model"),
    ],
)
def test_a_bucket_of_another_project(
    arguments: str, desk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Google says the same of a bucket that is not ours and of one that is nobody's."""
    denied = (
        b'{"error": {"code": 403, "message": "me@example.com does not have storage.objects.list access to the Google '
        b'Cloud Storage bucket. Permission denied on resource (or it may not exist)."}}'
    )
    with serve() as server:
        server.otherwise = status(403, {"Content-Type": "application/json"}, denied)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.address)
        storage._storage.cache_clear()
        assert main(arguments.split()) == 2
        storage._storage("gs").close()
    storage._storage.cache_clear()
    said = capfd.readouterr().err
    assert "me@example.com does not have storage.objects.list access" in said
    assert_tells(said, "grant this permission to the account, or log in as another with `gcloud auth")
    assert not (desk / "out").exists()


def assert_tells(said: str, told: str) -> None:
    assert told in said
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 3
