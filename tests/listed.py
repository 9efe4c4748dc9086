"""Folders with files that hold nothing, and what is listed in them."""

from __future__ import annotations

from pathlib import Path

from beam_job.inputs.listing import list_images
from beam_job.inputs.rows import ListOptions


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def rows(*inputs: object, **options: object) -> list[dict]:
    batches = list_images([str(given) for given in inputs], ListOptions(**options))  # type: ignore[arg-type]
    return [row for batch in batches for row in batch.to_pylist()]


def names(folder: Path, given: object) -> list[str]:
    return [row["uri"].removeprefix(f"{folder}/") for row in rows(given)]
