"""The README's example of captioning from Python does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

README = Path(__file__).parents[2] / "README.md"


def test_from_python(
    photographs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = re.search(
        r"^To caption one image in Python:\n\n```python\n(.*?)```", README.read_text(), re.MULTILINE | re.DOTALL
    )
    assert found, "the README has no example of captioning one image"
    with Image.open(photographs["chelsea.png"]) as image:
        image.convert("RGB").save(tmp_path / "dog.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(found[1], "README.md", "exec"), {})
    words = capsys.readouterr().out.split()
    assert len(words) > 3
    assert -10 < float(words[-1]) < 0
