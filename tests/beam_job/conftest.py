"""Fixtures of the tests of the job."""

from __future__ import annotations

from pathlib import Path

import pytest

from beam_job.captioning import caption_shards
from beam_job.storage import HOSTS
from tests.fakes import FakeCaptioner
from tests.nights import Nights, fake_captioner


@pytest.fixture(autouse=True)
def unknown_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known about any server: one that asked for a pause in another test may have had the same port."""
    monkeypatch.setattr(HOSTS, "_hosts", {})


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    """Runs in this process caption with a fake, since it is which images are captioned that counts here."""
    monkeypatch.setattr("beam_job.captioning.caption_shards.load_captioner", fake_captioner)
    return Nights(tmp_path)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[FakeCaptioner]:
    """The captioners that were opened."""
    captioners: list[FakeCaptioner] = []

    def load(*_: object) -> FakeCaptioner:
        captioners.append(FakeCaptioner())
        return captioners[-1]

    monkeypatch.setattr(caption_shards, "load_captioner", load)
    return captioners
