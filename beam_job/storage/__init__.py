"""Local files, buckets and web servers behind one small interface; no other package uses storage clients."""

from __future__ import annotations

import functools
from collections.abc import Callable

from beam_job.storage.access import REQUESTS_PER_HOST as REQUESTS_PER_HOST
from beam_job.storage.access import USER_AGENT as USER_AGENT
from beam_job.storage.access import Access as Access
from beam_job.storage.access import use_access as use_access
from beam_job.storage.allow import Allowed as Allowed
from beam_job.storage.allow import NotAllowedError as NotAllowedError
from beam_job.storage.allow import bucket_of as bucket_of
from beam_job.storage.base import CONTENT as CONTENT
from beam_job.storage.base import LATER as LATER
from beam_job.storage.base import OPTIONS as OPTIONS
from beam_job.storage.base import RETRY_WHEN as RETRY_WHEN
from beam_job.storage.base import CredentialsError as CredentialsError
from beam_job.storage.base import Storage as Storage
from beam_job.storage.base import StorageError as StorageError
from beam_job.storage.base import StoredObject as StoredObject
from beam_job.storage.base import TooLargeError as TooLargeError
from beam_job.storage.base import UnknownSchemeError as UnknownSchemeError
from beam_job.storage.base import is_glob as is_glob
from beam_job.storage.base import join as join
from beam_job.storage.base import literal_part as literal_part
from beam_job.storage.base import scheme_of as scheme_of
from beam_job.storage.fsspec_storage import FSSPEC_SCHEMES as FSSPEC_SCHEMES
from beam_job.storage.fsspec_storage import FsspecStorage as FsspecStorage
from beam_job.storage.gcs import GoogleCloudStorage as GoogleCloudStorage
from beam_job.storage.hosts import HOSTS as HOSTS
from beam_job.storage.hosts import Hosts as Hosts
from beam_job.storage.hosts import host_of as host_of
from beam_job.storage.http import HttpStorage as HttpStorage
from beam_job.storage.local import LocalStorage as LocalStorage
from beam_job.storage.local import absolute as absolute
from beam_job.storage.local import local_path as local_path
from beam_job.storage.local import local_uri as local_uri
from beam_job.storage.local import real_path as real_path
from beam_job.storage.responses import WEB as WEB
from beam_job.storage.responses import public_name as public_name
from beam_job.storage.responses import without_secrets as without_secrets
from beam_job.storage.s3 import S3Storage as S3Storage

SCHEMES: dict[str, Callable[[], Storage]] = {
    "file": LocalStorage,
    "gs": GoogleCloudStorage,
    "http": HttpStorage,
    "https": HttpStorage,
    **{scheme: functools.partial(FsspecStorage, scheme) for scheme in FSSPEC_SCHEMES},
    "s3": functools.partial(S3Storage, "s3"),
    "s3a": functools.partial(S3Storage, "s3a"),
}


def storage_for(uri: str, allowed: Allowed | None = None) -> Storage:
    """The storage that contains `uri`; each process makes one client per scheme.

    Args:
      uri: of a file or folder.
      allowed: what may be read, for URIs from a list; None for URIs that the operator gave.

    Raises:
      UnknownSchemeError: there is no storage for it.
      NotAllowedError: `uri` may not be read.
    """
    scheme = scheme_of(uri)
    if scheme not in SCHEMES:
        others = ", ".join(f"{known}://" for known in SCHEMES if known not in ("file", "gs"))
        raise UnknownSchemeError(
            f"{public_name(uri)}: unknown scheme {scheme}://; use a local path, file:// or gs://; "
            f"images may also lie in {others}"
        )
    if allowed is not None:
        allowed.check(uri)
        if scheme in WEB:
            return _web_storage(allowed)
    return _storage(scheme)


@functools.cache
def _storage(scheme: str) -> Storage:
    return SCHEMES[scheme]()


@functools.cache
def _web_storage(allowed: Allowed) -> Storage:
    """A storage for web servers that also checks redirects and addresses against `allowed`."""
    return HttpStorage(allowed=allowed)
