"""The documentation: its size, its links, and the README's captioner, which is run as printed."""

from __future__ import annotations

import functools
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from PIL import Image

from beam_job.cli.command import main
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
    """The anchors that GitHub makes from headings."""
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


def run_as_printed(page: Path, module: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Writes a page's captioner into `folder` as `module`; returns the page's command, which runs there."""
    text = page.read_text(encoding="utf-8")
    [example] = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "def make(" in block]
    (folder / f"{module}.py").write_text(example, encoding="utf-8")
    command = re.search(rf"^\$ PYTHONPATH=\. caption-images (.*--captioner={module}:make.*)$", text, re.MULTILINE)
    assert command
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, module, raising=False)
    return functools.partial(main, shlex.split(command[1]))


def save_models(folder: Path, *brightness: float) -> None:
    """SavedModels that caption with a brightness; they differ in their weights alone, not in `saved_model.pb`."""
    import tensorflow as tf

    class Model(tf.Module):
        def __init__(self) -> None:
            self.brightness = tf.Variable(0.0)

        @tf.function(input_signature=[tf.TensorSpec((None, 48, 48, 3), tf.uint8)])
        def caption(self, images):
            text = tf.strings.join(["brightness ", tf.strings.as_string(self.brightness, precision=2)])
            count = tf.shape(images)[:1]
            return tf.fill(count, text), tf.zeros(count)

    model = Model()
    for value in brightness:
        model.brightness.assign(value)
        tf.saved_model.save(model, str(folder / str(value)))
        if value != brightness[0]:
            shutil.copy(folder / str(brightness[0]) / "saved_model.pb", folder / str(value))


def test_the_captioner_of_the_readme_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its version covers the weights: two models that differ in nothing else are two versions."""
    run = run_as_printed(README, "my_captioner", tmp_path, monkeypatch)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (80, 60)).save(tmp_path / "photos" / "black.png")
    save_models(tmp_path, 0.25, 0.75)
    for brightness in ("0.25", "0.75"):
        shutil.rmtree("saved", ignore_errors=True)
        shutil.copytree(brightness, "saved")
        assert run() == 0
    rows = ds.dataset(tmp_path / "captions" / "captions").to_table(["caption", "model_version"]).to_pylist()
    assert {row["caption"] for row in rows} == {"brightness 0.25", "brightness 0.75"}
    assert len({row["model_version"] for row in rows}) == 2


def test_the_captioner_of_the_docs_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_as_printed(ROOT / "docs" / "captioners.md", "colours", tmp_path, monkeypatch)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (80, 60), (200, 30, 30)).save(tmp_path / "photos" / "red.png")
    assert run() == 0
    [row] = ds.dataset(tmp_path / "captions" / "captions").to_table(["caption", "score"]).to_pylist()
    assert row == {"caption": "a picture in red", "score": 0.0}
