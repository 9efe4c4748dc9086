"""The documentation: its size, its links, and the README's captioner, which is run as printed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from PIL import Image

from tests.conftest import ROOT

README = ROOT / "README.md"
PAGES = [README, *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "deploy/README.md"))]
PAGES += sorted(ROOT.glob("docs/*.md"))
_LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]+))?\)")
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def test_the_readme_can_be_read_in_five_minutes() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200
    assert [line for line in lines if len(line) > 120] == []


def links(page: Path) -> Iterator[tuple[Path, str | None]]:
    for target, anchor in _LINK.findall(_FENCED.sub("", page.read_text(encoding="utf-8"))):
        yield (page.parent / target if target else page), anchor or None


def anchors(page: Path) -> set[str]:
    """As GitHub makes them from headings."""
    headings = re.findall(r"^#+ +(.*)$", _FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = [
        f"{target.resolve().relative_to(ROOT)}#{anchor or ''}"
        for target, anchor in links(page)
        if not target.exists() or (anchor and anchor not in anchors(target))
    ]
    assert broken == []


def save_model(folder: Path, brightness: float) -> None:
    """A SavedModel whose captions depend on its weights."""
    import tensorflow as tf

    class Model(tf.Module):
        def __init__(self) -> None:
            self.brightness = tf.Variable(brightness)

        @tf.function(input_signature=[tf.TensorSpec((None, 48, 48, 3), tf.uint8)])
        def caption(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            texts = tf.fill(tf.shape(images)[:1], tf.strings.join(["brightness ", tf.strings.as_string(self.brightness)]))
            return texts, tf.zeros(tf.shape(images)[:1])

    tf.saved_model.save(Model(), str(folder))


def test_the_captioner_of_the_readme_runs_as_printed(tmp_path: Path) -> None:
    """And its version covers the weights: two models that differ in nothing else are two versions."""
    text = README.read_text(encoding="utf-8")
    [example] = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "def make(" in block]
    (tmp_path / "my_captioner.py").write_text(example, encoding="utf-8")
    command = re.search(r"^\$ PYTHONPATH=\. caption-images (.*--captioner=my_captioner:make.*)$", text, re.MULTILINE)
    assert command
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (80, 60)).save(tmp_path / "photos" / "black.png")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", str(ROOT)])}
    for brightness in (0.25, 0.75):
        save_model(tmp_path / "saved", brightness)
        subprocess.run(
            [sys.executable, "-m", "beam_job", *shlex.split(command[1])], cwd=tmp_path, env=environment, check=True
        )
    rows = ds.dataset(tmp_path / "captions" / "captions").to_table(["caption", "model_version"]).to_pylist()
    assert {row["caption"].split(".")[1][:2] for row in rows} == {"25", "75"}
    assert len({row["model_version"] for row in rows}) == 2
