"""`model` stands alone: it works where Beam, cloud storage and Arrow cannot be imported."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
MODULES = sorted((ROOT / "model").rglob("*.py"))
FORBIDDEN = ("apache_beam", "google.cloud", "pyarrow", "beam_job")


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_no_module_names_a_forbidden_package(module: Path) -> None:
    imported = []
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported.append(node.module or "")
    assert not [name for name in imported if name.startswith(FORBIDDEN)]


def run(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_photograph_is_captioned_without_them(photographs) -> None:
    program = f"""
import sys
for name in {FORBIDDEN!r}:
    sys.modules[name] = None  # importing it raises ImportError
from model import load_captioner, load_image
captioner = load_captioner()
image = load_image(open(sys.argv[1], "rb").read(), captioner.config.input_size)
print(captioner.caption(image.pixels[None])[0][0].text)
"""
    assert len(run(program, str(photographs["chelsea.png"])).split()) > 2


@pytest.mark.parametrize("module", ["model", "beam_job.cli.options", "beam_job.records", "beam_job.output.sink"])
def test_what_answers_at_once_does_not_wait_for_tensorflow(module: str) -> None:
    assert run(f"import sys, {module}; print('tensorflow' in sys.modules)").strip() == "False"
