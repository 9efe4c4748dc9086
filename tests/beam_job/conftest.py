"""Fixtures of the tests of the job."""

from __future__ import annotations

import pytest

from beam_job.storage import HOSTS


@pytest.fixture(autouse=True)
def unknown_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known about any server: one that asked for a pause in another test may have had the same port."""
    monkeypatch.setattr(HOSTS, "_hosts", {})
