"""Fixtures of the trainings' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.model.small_training import use_small_network


@pytest.fixture(scope="module", autouse=True)
def small_network() -> Iterator[None]:
    """Trainings with `SMALL` are small."""
    with pytest.MonkeyPatch.context() as patch:
        use_small_network(patch)
        yield
