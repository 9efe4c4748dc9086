"""Fixtures of the tests of planning."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(params=["local", "bucket"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder, and a bucket of a server that honours preconditions."""
    if request.param == "local":
        return str(tmp_path / "out")
    request.getfixturevalue("gcs_server")
    return "gs://bucket/out"
