"""Which addresses may be fetched: the one place for that decision.

A list of URIs may come from strangers, and the machine that runs the job can reach addresses that they cannot (a
cloud's metadata server, an intranet). Every read over the network by a name out of such a list passes here:
`HttpStorage` asks before each request, those of redirects included, and `FsspecStorage` before each read.
"""

from __future__ import annotations


def check_allowed(uri: str) -> None:
    """Returns where `uri` may be fetched; everything may at present.

    Args:
      uri: as listed, or the target of a redirect.

    Raises:
      StorageError: it may not; permanent, the message names the URI without its query. (Not raised yet.)
    """
