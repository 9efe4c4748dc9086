"""Fixtures of the model's tests."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.model.small_training import SAID


@pytest.fixture(scope="session")
def parquet(photographs, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The photographs and their captions as one Parquet file with bytes."""
    path = tmp_path_factory.mktemp("training")
    rows = [{"image_id": n, "image": photographs[n].read_bytes(), "captions": said} for n, said in SAID.items()]
    pq.write_table(pa.Table.from_pylist(rows), path / "data.parquet")
    return str(path / "data.parquet")
