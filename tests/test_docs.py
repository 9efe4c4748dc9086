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

from beam_job.cli.options_page import options_page
from tests.beam_job.test_packages import MAY_IMPORT
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


def test_the_page_of_options_is_that_of_the_parser() -> None:
    """After a change: `python -m beam_job.cli.options_page > docs/options.md`."""
    assert (ROOT / "docs" / "options.md").read_text(encoding="utf-8") == options_page()


def test_the_architecture_lists_the_packages_so_that_imports_go_up() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    first_columns = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    named = [name for column in first_columns for name in re.findall(r"`(\w+)`", column)]
    assert [name for name in named if name in MAY_IMPORT] == list(MAY_IMPORT)


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


# In a process of its own, where two models that differ in their weights alone have the same `saved_model.pb`.
_SAVE = """
import sys
import tensorflow as tf


class Model(tf.Module):
    def __init__(self):
        self.brightness = tf.Variable(0.0)

    @tf.function(input_signature=[tf.TensorSpec((None, 48, 48, 3), tf.uint8)])
    def caption(self, images):
        text = tf.strings.join(["brightness ", tf.strings.as_string(self.brightness, precision=2)])
        count = tf.shape(images)[:1]
        return tf.fill(count, text), tf.zeros(count)


model = Model()
model.brightness.assign(float(sys.argv[1]))
tf.saved_model.save(model, "saved")
"""


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
    graphs = set()
    for brightness in ("0.25", "0.75"):
        for program in (["-c", _SAVE, brightness], ["-m", "beam_job", *shlex.split(command[1])]):
            subprocess.run([sys.executable, *program], cwd=tmp_path, env=environment, check=True)
        graphs.add((tmp_path / "saved" / "saved_model.pb").read_bytes())
    assert len(graphs) == 1
    rows = ds.dataset(tmp_path / "captions" / "captions").to_table(["caption", "model_version"]).to_pylist()
    assert {row["caption"] for row in rows} == {"brightness 0.25", "brightness 0.75"}
    assert len({row["model_version"] for row in rows}) == 2


def test_the_captioner_of_the_docs_runs_as_printed(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "captioners.md").read_text(encoding="utf-8")
    [example] = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "def make(" in block]
    (tmp_path / "colours.py").write_text(example, encoding="utf-8")
    command = re.search(r"^\$ PYTHONPATH=\. caption-images (.*--captioner=colours:make.*)$", text, re.MULTILINE)
    assert command
    arguments = shlex.split(command[1])
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (80, 60), (200, 30, 30)).save(tmp_path / "photos" / "red.png")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", str(ROOT)])}
    subprocess.run([sys.executable, "-m", "beam_job", *arguments], cwd=tmp_path, env=environment, check=True)
    [row] = ds.dataset(tmp_path / "captions" / "captions").to_table(["caption", "score"]).to_pylist()
    assert row == {"caption": "a picture in red", "score": 0.0}
