"""Images by hash: what a set of keys contains, and that it needs no long strings."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from beam_job.planning.keys import KEY_BYTES, URI_BYTES, KeySet, first_of_each, uri_keys, version_keys


def keys_of(*rows: tuple[str, str | None]) -> np.ndarray:
    uris, versions = zip(*rows, strict=True)
    return version_keys(uri_keys(pa.array(uris)), pa.array(versions, pa.string()))


def test_a_uri_is_found_in_its_version_and_without_one() -> None:
    keys = KeySet(KEY_BYTES)
    keys.add(keys_of(("a", "1"), ("b", None), ("c", "")))
    assert keys.contains(
        keys_of(("a", "1"), ("a", "2"), ("a", None), ("b", None), ("b", "1"), ("c", None))
    ).tolist() == [*(True, False, False, True, False, True)]
    assert keys.contains(uri_keys(pa.array(["d", "c", "a", "b", "e"]))).tolist() == [False, True, True, True, False]


def test_neighbouring_texts_are_different_keys() -> None:
    """URI and version are hashed apart, so no two rows are the same because their texts joined are."""
    rows = [
        ("ab", "c"),
        ("a", "bc"),
        ("abc", None),
        ("ab\0c", None),
        ("ab", "\0c"),
        ("é", "1"),
        ("e\u0301", "1"),
        ("", ""),
    ]
    assert len(set(keys_of(*rows).tolist())) == len(rows)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_chunks_and_types_do_not_matter(kind: pa.DataType) -> None:
    chunked = pa.chunked_array([["a"], [], ["b", "c"]], kind)
    assert uri_keys(chunked).tobytes() == uri_keys(pa.array(["a", "b", "c"])).tobytes()


def test_nothing_is_in_an_empty_set_and_nothing_is_found_of_no_rows() -> None:
    keys = KeySet(URI_BYTES)
    none = uri_keys(pa.array([], pa.string()))
    keys.add(none)
    assert len(keys) == 0
    assert keys.contains(uri_keys(pa.array(["a"]))).tolist() == [False]
    assert keys.contains(none).tolist() == first_of_each(none).tolist() == []


def test_a_set_that_grows_in_pieces_is_the_set_of_all() -> None:
    """Pieces of 1 to 900 keys, with doubles; 20,000 keys whose last byte is often zero, which numpy's texts end at."""
    rng = random.Random(5)
    numbers = np.random.default_rng(5).integers(0, 2**63, 20_000).astype("<u8")
    raw = np.zeros((len(numbers), 2), "<u8")
    raw[:, 0] = numbers
    raw[::2, 1] = numbers[::2]
    values = raw.view(f"S{KEY_BYTES}").reshape(-1)
    keys, start = KeySet(KEY_BYTES), 0
    while start < 10_000:
        piece = values[start : start + rng.randint(1, 900)]
        keys.add(piece)
        assert keys.contains(piece).all()
        start += len(piece)
    assert keys.contains(values[:start]).all()
    assert not keys.contains(values[start:]).any()


def test_the_first_of_each_key() -> None:
    assert first_of_each(uri_keys(pa.array(["b", "a", "b", "c", "a"]))).tolist() == [True, True, False, True, False]
