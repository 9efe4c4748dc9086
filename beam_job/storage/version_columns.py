"""Versions of stored objects in columns of tables; see `beam_job.storage.versions`."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from beam_job.storage.versions import READ_VERSION

_PATTERN = f"^{READ_VERSION.pattern}$"


def content_versions(versions: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """`content_version` of each."""
    return pc.replace_substring_regex(versions, _PATTERN, r"\1-\3")


def listed_versions(versions: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Versions as a listing gives them: without hashes."""
    return pc.replace_substring_regex(versions, _PATTERN, r"\1-\2")
