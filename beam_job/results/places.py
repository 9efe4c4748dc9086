"""Checks the folders that a command writes to: they must not overlap with the output that it reads."""

from __future__ import annotations

import os
import posixpath

from beam_job.storage import StorageError, local_path, scheme_of


def check_apart(output: str, to: str, *below: str) -> None:
    """Checks that `to`, and each of its subfolders named in `below`, neither is, contains nor lies in `output`.

    Links, `..`, relative paths and the ways of writing a URI make no difference.

    Raises:
      StorageError: they overlap, or `to` is empty.
    """
    if not to.strip():
        raise StorageError("--to is empty; name a folder, such as --to=./newest")
    for folder in (to, *(f"{to.rstrip('/')}/{name}" for name in below)):
        if scheme_of(output) != scheme_of(folder):
            continue
        overlap = _overlap_locally if scheme_of(output) == "file" else _overlap_remotely
        if relation := overlap(output, folder):
            raise StorageError(f"--to={to} {relation} --output={output}; name a folder outside of the job's output")


def _overlap_locally(output: str, to: str) -> str:
    """How `to` lies to `output`, in words; "" where they lie apart."""
    outer, inner = _ancestors(output), _ancestors(to)
    if any(_is_same(outer[0], folder) for folder in inner[1:]):
        return "lies in"
    if any(_is_same(inner[0], folder) for folder in outer[1:]):
        return "contains"
    return "is the same folder as" if _is_same(outer[0], inner[0]) else ""


def _ancestors(uri: str) -> list[str]:
    """A folder and those around it up to the root, without links."""
    path = os.path.realpath(local_path(uri))
    found = [path]
    while os.path.dirname(path) != path:
        path = os.path.dirname(path)
        found.append(path)
    return found


def _is_same(one: str, other: str) -> bool:
    """By name, or by identity: on a file system that ignores case, or mounted twice, names differ."""
    if one == other:
        return True
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them does not exist yet
        return False


def _overlap_remotely(output: str, to: str) -> str:
    one, other = (_normal_remote(uri) for uri in (output, to))
    if one == other:
        return "is the same folder as"
    if other.startswith(one):
        return "lies in"
    return "contains" if one.startswith(other) else ""


def _normal_remote(uri: str) -> str:
    """A bucket's name and the object's prefix, ending in a slash."""
    place = uri.partition("://")[2]
    return f"{posixpath.normpath('/' + place).lstrip('/')}/"
