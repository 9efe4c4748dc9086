"""Objects of Google Cloud Storage by their URIs, at the expense of the project that pays for reading them."""

from __future__ import annotations

import datetime
import urllib.parse
from typing import TYPE_CHECKING, Any

from beam_job.storage.access import current_access
from beam_job.storage.base import CONTENT, StorageError, StoredObject

if TYPE_CHECKING:
    from google.cloud import storage as gcs


def split(uri: str) -> tuple[str, str]:
    """The bucket and the object's name. Raises StorageError if the URI names no bucket."""
    bucket, _, name = uri[len("gs://") :].partition("/")
    if not bucket:
        raise StorageError(f"{uri}: names no bucket; write gs://BUCKET/NAME", retry_when=CONTENT)
    return bucket, name


def bucket_of(client: gcs.Client, name: str) -> gcs.Bucket:
    """The bucket; nothing is requested yet."""
    return client.bucket(name, user_project=current_access().billing_project or None)


def blob_of(client: gcs.Client, uri: str) -> gcs.Blob:
    """The object; nothing is requested yet."""
    bucket, name = split(uri)
    return bucket_of(client, bucket).blob(name)


def stat_blob(blob: gcs.Blob, options: dict[str, Any]) -> StoredObject:
    """Requests an object's generation, size, checksum and time. `options`: of the request, such as its timeout."""
    blob.reload(**options)
    updated: datetime.datetime | None = blob.updated
    modified = updated.timestamp() if updated else None
    return StoredObject(f"gs://{blob.bucket.name}/{blob.name}", str(blob.generation), blob.size, blob.crc32c, modified)


def media_url(client: gcs.Client, uri: str, version: str | None) -> str:
    """The address of an object's content, in one generation or the newest."""
    bucket, name = (urllib.parse.quote(part, safe="") for part in split(uri))
    generation = f"&generation={urllib.parse.quote(version, safe='')}" if version else ""
    payer = current_access().billing_project
    project = f"&userProject={urllib.parse.quote(payer, safe='')}" if payer else ""
    return f"{client.api_endpoint}/download/storage/v1/b/{bucket}/o/{name}?alt=media{generation}{project}"
