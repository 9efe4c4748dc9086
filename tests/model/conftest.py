"""Fixtures of the model's tests."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.model.training import SAID


@pytest.fixture
def parquet(photographs, tmp_path: Path) -> str:
    """The photographs and their captions as one Parquet file with bytes."""
    rows = [{"image_id": n, "image": photographs[n].read_bytes(), "captions": said} for n, said in SAID.items()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    return str(tmp_path / "data.parquet")
