"""Fixtures of the tests of the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.photographs import fill


@pytest.fixture
def folder(photographs, tmp_path: Path) -> Path:
    """Six photographs, three files that are none, and one image below."""
    return fill(tmp_path / "photos", photographs)
