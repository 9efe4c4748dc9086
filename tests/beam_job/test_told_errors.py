"""What a newcomer does wrong first: each mistake has exit code 2, three lines at most, and a word on what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from beam_job.__main__ import main


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
        pytest.param("--input=fotos --output=out", "fotos is not there; check its spelling", id="wrong path"),
        pytest.param("--input=empty --output=out", "empty holds no images (.jpg", id="empty folder"),
        pytest.param(
            "--input=photos/*.png --output=out", "photos/*.png; check its spelling", id="a glob that matches nothing"
        ),
        pytest.param(
            "--input=photos --output=out --model=no_model",
            "config.json is missing; name a folder that model.train wrote",
            id="a model that is none",
        ),
        pytest.param(
            "--input=photos --output=out --model=nowhere",
            "no such folder; name one that model.train wrote",
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
    said = capfd.readouterr().err
    assert told in said
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 3
    assert set(desk.rglob("*")) == before, "nothing is written"
