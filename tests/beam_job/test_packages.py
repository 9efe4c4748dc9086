"""Imports between packages go one way, down this table; the table is the plan of `docs/architecture.md`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Package or module of beam_job, and what it may import of beam_job. A line may name lines above it only.
MAY_IMPORT = {
    "text": set(),
    "storage": set(),
    "records": {"storage"},
    "inputs": {"records", "storage", "text"},
    "config": {"inputs", "storage"},
    "captioners": {"config", "inputs", "storage", "text"},
    "planning": {"config", "inputs", "records", "storage", "text"},
    "loading": {"config", "inputs", "records", "storage", "text"},
    "output": {"config", "inputs", "planning", "records", "storage", "text"},
    "captioning": {"config", "inputs", "loading", "output", "planning", "records", "storage", "text"},
    "transforms": {"captioning", "config", "inputs", "output", "records"},
    "pipeline": {"captioning", "config", "output", "planning", "records", "storage"},
    "results": {"config", "inputs", "loading", "output", "planning", "records", "storage", "text"},
    "runners": {"captioning", "config", "inputs", "loading", "output", "pipeline", "planning", "storage", "text"},
    "cli": {
        *("captioning", "config", "inputs", "loading", "output", "pipeline", "planning", "records", "results"),
        *("runners", "storage", "text"),
    },
    "__main__": {"cli"},
}
PACKAGES = [name for name in MAY_IMPORT if (ROOT / "beam_job" / name).is_dir()]
AT_THE_TOP = {"__init__.py", "py.typed", *(f"{name}.py" for name in MAY_IMPORT if name not in PACKAGES)}


def imports_of(path: Path) -> Iterator[str]:
    """The dotted names that a module imports, at its top and inside of functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files_of(name: str) -> list[Path]:
    place = ROOT / "beam_job" / name
    return sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_imports_go_one_way(name: str) -> None:
    found = set()
    for path in files_of(name):
        for imported in imports_of(path):
            package, _, rest = imported.partition(".")
            if package == "beam_job" and rest.split(".")[0] != "__version__":
                found.add(rest.split(".")[0])
    assert found - {name} <= MAY_IMPORT[name]


def test_a_package_imports_only_what_is_listed_before_it() -> None:
    known: set[str] = set()
    for name, allowed in MAY_IMPORT.items():
        assert allowed <= known, name
        known.add(name)


def test_every_package_is_in_the_table_and_says_what_it_is_for() -> None:
    folders = {path.name for path in (ROOT / "beam_job").iterdir() if (path / "__init__.py").exists()}
    assert folders == set(PACKAGES)
    for name in PACKAGES:
        docstring = ast.get_docstring(ast.parse((ROOT / "beam_job" / name / "__init__.py").read_text(encoding="utf-8")))
        assert docstring, name


def test_eight_files_at_most_lie_beside_the_packages() -> None:
    files = {path.name for path in (ROOT / "beam_job").iterdir() if path.is_file()}
    assert files == AT_THE_TOP
    assert len(files - {"py.typed"}) <= 8


def test_inference_knows_nothing_of_training() -> None:
    for path in sorted((ROOT / "model").glob("*.py")):
        if path.name != "__main__.py":
            assert not [name for name in imports_of(path) if name.startswith("model.training")], path.name
