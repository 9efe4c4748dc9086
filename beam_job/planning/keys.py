"""Sets of images by hash, for a hundred million of them in memory: 16 bytes each instead of their URIs.

A key is 10 bytes of the URI's hash and 6 bytes of the version's, both BLAKE2b, so that one set answers both "is this
URI known" and "is it known in this version". With 80 bits for URIs the chance that any two of a billion share a key is
one in two million; with 48 bits for versions, the chance that a changed image is taken for unchanged is 4e-15.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

URI_BYTES = 10
KEY_BYTES = 16
Keys = npt.NDArray[np.bytes_]  # S10 of URIs, S16 of URIs with versions; numpy sorts and searches these as memcmp does


def uri_keys(uris: pa.ChunkedArray | pa.Array) -> Keys:
    """S10[rows]: the keys of URIs without their versions."""
    digests = (hashlib.blake2b(uri, digest_size=URI_BYTES).digest() for uri in _bytes_of(uris))
    return np.frombuffer(b"".join(digests), f"S{URI_BYTES}")


def version_keys(of_uris: Keys, versions: pa.ChunkedArray | pa.Array) -> Keys:
    """S16[rows]: the keys of URIs, given theirs, in these versions; null is a version, too."""
    size = KEY_BYTES - URI_BYTES
    digests = (hashlib.blake2b(version, digest_size=size).digest() for version in _bytes_of(versions))
    keys = np.empty((len(of_uris), KEY_BYTES), np.uint8)
    keys[:, :URI_BYTES] = of_uris.view(np.uint8).reshape(-1, URI_BYTES)
    keys[:, URI_BYTES:] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, size)
    return keys.view(f"S{KEY_BYTES}").reshape(-1)


def first_of_each(keys: Keys) -> npt.NDArray[np.bool_]:
    """bool[rows]: whether a key has not occurred earlier in `keys`."""
    first = np.zeros(len(keys), bool)
    first[np.unique(keys, return_index=True)[1]] = True
    return first


class KeySet:
    """A set of keys that grows, in sorted arrays of which each is several times as long as the next.

    Args:
      size: bytes of a key.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._arrays: list[Keys] = []

    def __len__(self) -> int:
        return sum(map(len, self._arrays))

    def add(self, keys: Keys) -> None:
        """Adds `keys`."""
        if not len(keys):
            return
        self._arrays.append(np.sort(keys))
        while len(self._arrays) > 1 and len(self._arrays[-2]) < 4 * len(self._arrays[-1]):
            last = self._arrays.pop()
            longer = self._arrays[-1]
            size = len(longer)
            longer.resize(size + len(last), refcheck=False)  # in place: a copy would double the peak
            longer[size:] = last
            longer.sort(kind="stable")  # which merges two sorted halves

    def contains(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """bool[rows]: which of `keys`, or keys that begin with these, are in the set."""
        order = np.argsort(keys)  # searching for sorted keys is ten times as fast
        ordered = keys[order]
        whole = ordered.astype(f"S{self._size}")  # padded with zeros, so the first of those that begin so
        found = np.zeros(len(keys), bool)
        for array in self._arrays:
            at = np.minimum(np.searchsorted(array, whole), len(array) - 1)
            found |= array[at].astype(ordered.dtype) == ordered  # cut to the length that was asked for
        answer = np.empty(len(keys), bool)
        answer[order] = found
        return answer


def _bytes_of(texts: pa.ChunkedArray | pa.Array) -> list[bytes]:
    return pc.fill_null(pc.cast(texts, pa.large_binary()), b"").to_pylist()
