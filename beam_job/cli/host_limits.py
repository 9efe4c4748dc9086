"""One-line errors for limits of this machine or process: memory, files, threads, disk space."""

from __future__ import annotations

import contextlib
import errno
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

# Beam, Arrow and TensorFlow map 4.0 GB of address space before the first image is captioned (TensorFlow 2.21, x86-64).
# With less, the imports fail in many ways, a segmentation fault among them.
_ADDRESS_SPACE_GB = 4.0


class HostLimitError(RuntimeError):
    """This machine, or a limit set for this process, has too little of something; the message says what to do."""


@dataclass(frozen=True)
class _Limit:
    """How to recognize an error, and what to say about it.

    Attributes:
      errnos: of an OSError.
      pattern: in the last line of the error, for exceptions of other classes and of other processes.
      advice: what is missing, and what to do.
    """

    errnos: tuple[int, ...]
    pattern: re.Pattern[str]
    advice: str


_LIMITS = (
    _Limit(
        (errno.ENOMEM,),
        re.compile(r"\bMemoryError(:|$)|bad_alloc|Cannot allocate memory|failed to map segment"),
        "out of memory: raise the limit (ulimit -v, or the container's), or use fewer --workers or a smaller "
        "--batch_size",
    ),
    _Limit(
        (errno.EAGAIN,),
        re.compile(r"can't start new thread|pthread_create|Resource temporarily unavailable"),
        "no more threads or processes can be started: raise the limits (ulimit -u, ulimit -v, or the container's), or "
        "use fewer --workers",
    ),
    _Limit(
        (errno.EMFILE, errno.ENFILE),
        re.compile(r"Too many open files"),
        "too many open files: raise the limit (ulimit -n), or use fewer --fetch_threads",
    ),
    _Limit(
        (errno.ENOSPC, errno.EDQUOT),
        re.compile(r"No space left on device|Disk quota exceeded"),
        "the disk is full: make room, or name another folder for temporary files with the environment variable TMPDIR",
    ),
    _Limit(
        (errno.EFBIG,),
        re.compile(r"File too large"),
        "a file has reached the maximum size allowed: raise the limit (ulimit -f)",
    ),
    _Limit(
        (),
        re.compile(r"No usable temporary directory"),
        "there is no writable folder for temporary files: name one with the environment variable TMPDIR",
    ),
)


def host_limit(error: BaseException) -> str | None:
    """What this machine ran out of, and what to do, if `error` or an error that caused it says so; else None."""
    for each in _chain(error):
        if isinstance(each, HostLimitError):
            return str(each)
        last = _last_line(each)
        for limit in _LIMITS:
            if (isinstance(each, OSError) and each.errno in limit.errnos) or limit.pattern.search(last):
                return f"{limit.advice} ({last[:200]})"
    return None


def check_host() -> None:
    """Checks, before anything large is imported, what every run needs.

    Raises:
      HostLimitError: too little address space, or no folder for temporary files.
    """
    limit = _address_space()
    if limit is not None and limit < _ADDRESS_SPACE_GB * 1e9:
        raise HostLimitError(
            f"the address space of this process is limited to {limit / 1e9:.1f} GB; a run needs at least "
            f"{_ADDRESS_SPACE_GB:.0f} GB: raise the limit (ulimit -v)"
        )
    with host_limits_explained(), tempfile.TemporaryFile():
        pass


@contextlib.contextmanager
def host_limits_explained() -> Iterator[None]:
    """Turns OSErrors of this block that `host_limit` knows into HostLimitError."""
    try:
        yield
    except OSError as error:
        if reason := host_limit(error):
            raise HostLimitError(reason) from error
        raise


def _address_space() -> int | None:
    """The limit in bytes; None if there is none."""
    if sys.platform == "win32":
        return None
    import resource  # not on Windows

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and the errors that caused it."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)


def _last_line(error: BaseException) -> str:
    """The last line of the message; that of an error in another process names the class of the original error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r" \[while running .*\]$", "", lines[-1]) if lines else type(error).__name__
