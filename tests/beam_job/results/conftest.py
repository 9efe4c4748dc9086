"""Fixtures of the tests that read outputs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.exported import Job
from tests.hostile_names import NAMES


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """One run for all tests of exports, which leave it as it is."""
    made = Job(tmp_path_factory.mktemp("export"))
    made.make()
    assert len(made.captions()) == len(NAMES)
    return made


@pytest.fixture
def own_job(job: Job, tmp_path: Path) -> Job:
    """A copy of the output, for a test that changes it; the photographs are those of `job`."""
    copy = Job(tmp_path)
    shutil.copytree(job.output, copy.output)
    copy.photos = job.photos
    return copy


@pytest.fixture
def nothing_escapes(job: Job, tmp_path: Path) -> Iterator[None]:
    """Whatever a test exports, the run's folders stay as they are, and no name leads out of the export."""
    around = sorted(path for path in job.root.rglob("*"))
    yield
    assert sorted(path for path in job.root.rglob("*")) == around
    assert not [escaped for folder in (tmp_path, *tmp_path.parents[:3]) for escaped in folder.glob("escaped*")]
