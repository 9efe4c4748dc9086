"""Braces in `--input`: `{a,b}` and `{00..41}` expand to several inputs."""

from __future__ import annotations

from collections.abc import Iterator

from beam_job.storage import WEB, StorageError, is_glob, scheme_of, storage_for

_MOST = 1_000_000  # inputs that braces may stand for


def alternatives(given: str) -> Iterator[str]:
    """The inputs that the braces of `given` stand for; only `given` if it has none, or is an address on the web."""
    if "{" not in given or scheme_of(given) in WEB:
        yield given
        return
    import bracex  # only inputs with braces need it

    try:
        yield from bracex.iexpand(given, keep_escapes=True, limit=_MOST)
    except bracex.ExpansionLimitException as error:
        raise StorageError(f"{given}: its braces expand to more than {_MOST:,} inputs; use a glob") from error


def is_literal(given: str) -> bool:
    """Whether `given` has no wildcards and braces, or names a file that exists by exactly that name."""
    if scheme_of(given) in WEB or not (is_glob(given) or "{" in given):
        return True
    storage = storage_for(given)
    return storage.exists(given)
