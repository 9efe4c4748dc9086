"""Decides which URIs of a list may be read.

A list from a bucket or the web may come from strangers, and the machine that runs the job can reach places that they
cannot: its own files, buckets of other teams, a cloud's metadata server, an intranet. So URIs of such a list are read
only in places that the operator has named, in `--input` or with an `--allow_...` option. `storage_for(uri, allowed)`
calls `Allowed.check` before it returns a storage, `download` does so for the target of each redirect, and connections
to web servers call `check_addresses` before they connect. URIs that operators give themselves are not checked. A list
on their own disk was chosen by them: it may name anything but private addresses, unless they say `--untrusted_lists`.
"""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from beam_job.storage.base import OPTIONS, StorageError, scheme_of
from beam_job.storage.local import real_path
from beam_job.storage.responses import WEB, public_name

_IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
# Global by their numbers, but local in fact: protocol assignments (with Oracle's metadata server), relays of 6to4, and
# the platform of Azure.
_NOT_PUBLIC = tuple(map(ipaddress.IPv4Network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")))
_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class NotAllowedError(StorageError):
    """A URI of a list that this run may not read; the message names the option that would allow it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "NotAllowed", retry_when=OPTIONS)


@dataclass(frozen=True)
class Allowed:
    """Where images may be read.

    Attributes:
      schemes: in lower case; "file" stands for local paths.
      roots: folders and files, without symbolic links; a local file must be one of them or lie below one, after its
        own links are resolved.
      buckets: `scheme://bucket`, or a bucket's name for any of `schemes`.
      private_addresses: whether web servers may have private addresses.
      anywhere: whether all local files, buckets and web servers may be read; of the latter only those with public
        addresses, unless `private_addresses` says more.
    """

    schemes: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()
    buckets: tuple[str, ...] = ()
    private_addresses: bool = False
    anywhere: bool = False

    def of(self, is_trusted: bool | None) -> Allowed:
        """What may be read for a row of the plan: anything, if it comes from an input of the operator's own disk."""
        return self._trusting if is_trusted else self

    @functools.cached_property
    def _trusting(self) -> Allowed:
        return dataclasses.replace(self, anywhere=True)

    def check(self, uri: str) -> None:
        """Checks that `uri` may be read.

        A local file is opened after its links were resolved here: whoever can replace links on this machine in the
        meantime could read the file anyway.

        Args:
          uri: as listed, or the target of a redirect.

        Raises:
          NotAllowedError: it may not.
          StorageError: it is not a valid name.
        """
        scheme = scheme_of(uri)
        if self.anywhere:
            if scheme == "file":
                real_path(uri)  # which refuses what is no name
            return
        if scheme not in self.schemes:
            known = ", ".join(self.schemes)
            raise NotAllowedError(
                f"{public_name(uri)}: {_called(scheme)} not among the allowed schemes ({known}); add {_option(uri)}"
            )
        if scheme == "file":
            self._check_path(uri)
        elif scheme not in WEB:
            self._check_bucket(uri)

    def _check_path(self, uri: str) -> None:
        path = real_path(uri)
        if not any(path == root or path.startswith(root.rstrip(os.sep) + os.sep) for root in self.roots):
            folders = ", ".join(self.roots) or "none"
            name = path if uri == path else f"{uri}: {path}"
            raise NotAllowedError(
                f"{name} is outside the allowed folders ({folders}); add --allow_root={os.path.dirname(path)}"
            )

    def _check_bucket(self, uri: str) -> None:
        bucket = bucket_of(uri)
        if bucket not in self.buckets and bucket.partition("://")[2] not in self.buckets:
            known = ", ".join(self.buckets) or "none"
            raise NotAllowedError(f"{public_name(uri)}: not in an allowed bucket ({known}); add {_option(uri)}")
        if scheme_of(uri) != "gs" and ".." in uri.split("/"):  # a client may leave the bucket by it
            raise NotAllowedError(f"{public_name(uri)}: a name with a segment .. is not allowed in {bucket}")


def bucket_of(uri: str) -> str:
    """`gs://bucket` of an object's URI; for `hf://`, which has no buckets, everything up to the repository."""
    scheme, _, rest = uri.partition("://")
    segments = 1
    if scheme.lower() == "hf":
        segments = 3 if rest.startswith(("datasets/", "spaces/")) else 2
        rest = rest.partition("@")[0]
    return f"{scheme.lower()}://{'/'.join(rest.split('/', segments)[:segments])}"


def check_addresses(host: str, addresses: Iterable[str]) -> None:
    """Checks that all `addresses` of a web server are public.

    Raises:
      NotAllowedError: one of them is not.
    """
    for address in addresses:
        if not _is_public(ipaddress.ip_address(address)):
            raise NotAllowedError(
                f"{host} has the address {address}, which is not public; add --allow_private_addresses"
            )


def resolve(host: str, port: int | None) -> list[str]:
    """The addresses of a host, in any spelling that the system accepts (`2130706433` is 127.0.0.1).

    Raises:
      OSError: the name service does not know it.
      UnicodeError: it is not a valid host name.
    """
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _is_public(address: _IPAddress) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        public = address.is_global and not address.is_multicast and not address.is_reserved
        return public and not any(address in network for network in _NOT_PUBLIC)
    if address.ipv4_mapped is not None:
        return _is_public(address.ipv4_mapped)
    if address.sixtofour is not None:
        return _is_public(address.sixtofour)
    if address in _NAT64:
        return _is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    # The only addresses in use; Python knows those of them that are not public (Teredo, documentation).
    return address in _UNICAST and address.is_global


def _called(scheme: str) -> str:
    return "local paths are" if scheme == "file" else f"{scheme}:// is"


def _option(uri: str) -> str:
    scheme = scheme_of(uri)
    if scheme == "file":
        return "--allow_root=FOLDER"
    return f"--allow_schemes={','.join(WEB)}" if scheme in WEB else f"--allow_buckets={bucket_of(public_name(uri))}"
