"""`model` works without Beam, cloud storage and Arrow, and its modules import each other in one direction."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import has_package

ROOT = Path(__file__).parent.parent.parent
MODULES = sorted((ROOT / "model").rglob("*.py"))
FORBIDDEN = ("apache_beam", "google.cloud", "pyarrow", "beam_job")


def imports_of(module: Path) -> Iterator[str]:
    """The dotted names that a module imports: at its top, inside functions and for type checking."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name_of(module: Path) -> str:
    return ".".join(module.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_no_module_imports_a_forbidden_package(module: Path) -> None:
    assert not [name for name in imports_of(module) if name.startswith(FORBIDDEN)]


def test_no_module_imports_itself_in_a_circle() -> None:
    names = {name_of(module) for module in MODULES}
    graph = {name_of(module): names & set(imports_of(module)) for module in MODULES}
    packages = {"model", "model.training"}  # modules import each other, not the names that a package exports
    for name, imported in graph.items():
        graph[name] = imported - packages if name not in packages else imported
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_modules_import_modules_rather_than_what_a_package_exports() -> None:
    names = {name_of(module) for module in MODULES}
    for module in MODULES:
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in ("model", "model.training"):
                assert {f"{node.module}.{alias.name}" for alias in node.names} <= names, module


def run(program: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def captioned_without_them(photographs, tiny_bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The caption of a photograph; where there is LiteRT, the encoder is cached for the tests of this module."""
    program = f"""
import sys
for name in {FORBIDDEN!r}:
    sys.modules[name] = None  # importing it raises ImportError
from model import load_captioner, load_image
captioner = load_captioner(sys.argv[1], engine="auto", log=lambda _: None)
image = load_image(open(sys.argv[2], "rb").read(), captioner.config.input_size)
print(captioner.caption(image.pixels[None])[0][0].text)
"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield run(program, tiny_bundle, photographs["chelsea.png"])


def test_a_photograph_is_captioned_without_them(captioned_without_them: str) -> None:
    assert captioned_without_them.strip()


def test_what_answers_at_once_does_not_wait_for_tensorflow() -> None:
    modules = "model, beam_job.cli.options, beam_job.records, beam_job.output.sink"
    assert run(f"import sys, {modules}; print('tensorflow' in sys.modules)").strip() == "False"


@pytest.mark.skipif(not has_package("ai_edge_litert"), reason="no LiteRT for this platform")
@pytest.mark.usefixtures("captioned_without_them")
def test_once_the_encoder_is_cached_a_cpu_captions_without_tensorflow(tiny_bundle) -> None:
    program = """
import sys
import numpy as np
import beam_job.captioning.caption_shards
import beam_job.cli.job
from pathlib import Path
from model import Decoding, load_captioner
for method in ("beam", "sample"):
    captioner = load_captioner(Path(sys.argv[1]), Decoding(method), engine="litert", log=lambda _: None)
    captioner.caption(np.zeros((2, captioner.input_size, captioner.input_size, 3), np.uint8))
print("tensorflow" in sys.modules, "keras" in sys.modules)
"""
    assert run(program, tiny_bundle).strip() == "False False"
