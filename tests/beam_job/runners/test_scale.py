"""docs/scale.md holds what the arithmetic gives today."""

from __future__ import annotations

from tests.benchmarks.scale import tables
from tests.conftest import ROOT


def test_the_page_has_the_script_s_tables() -> None:
    assert tables() in (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
