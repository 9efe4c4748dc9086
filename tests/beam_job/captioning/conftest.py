"""Fixtures of the tests of captioning."""

from __future__ import annotations

from pathlib import Path

import pytest

from beam_job.planning.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of the output `tmp_path / "out"`."""
    return Run(str(tmp_path / "out"), "r1")
