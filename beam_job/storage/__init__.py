"""Places where files lie, behind one small interface; storage clients live in this package and nowhere else."""

from __future__ import annotations

import functools
from collections.abc import Callable

from beam_job.storage.base import Storage as Storage
from beam_job.storage.base import StorageError as StorageError
from beam_job.storage.base import StoredObject as StoredObject
from beam_job.storage.base import UnknownSchemeError as UnknownSchemeError
from beam_job.storage.base import is_glob as is_glob
from beam_job.storage.base import join as join
from beam_job.storage.base import scheme_of as scheme_of
from beam_job.storage.fsspec_storage import FSSPEC_SCHEMES as FSSPEC_SCHEMES
from beam_job.storage.fsspec_storage import FsspecStorage as FsspecStorage
from beam_job.storage.gcs import GoogleCloudStorage as GoogleCloudStorage
from beam_job.storage.http import HttpStorage as HttpStorage
from beam_job.storage.local import LocalStorage as LocalStorage
from beam_job.storage.local import local_path as local_path
from beam_job.storage.local import local_uri as local_uri

SCHEMES: dict[str, Callable[[], Storage]] = {
    "file": LocalStorage,
    "gs": GoogleCloudStorage,
    "http": HttpStorage,
    "https": HttpStorage,
    **{scheme: functools.partial(FsspecStorage, scheme) for scheme in FSSPEC_SCHEMES},
}


def storage_for(uri: str) -> Storage:
    """The storage that `uri` lies in, one client a process. Raises UnknownSchemeError."""
    scheme = scheme_of(uri)
    if scheme not in SCHEMES:
        others = ", ".join(f"{known}://" for known in SCHEMES if known not in ("file", "gs"))
        raise UnknownSchemeError(
            f"{uri}: unknown scheme {scheme}://; use a local path, file:// or gs://; images may also lie in {others}"
        )
    return _storage(scheme)


@functools.cache
def _storage(scheme: str) -> Storage:
    return SCHEMES[scheme]()
