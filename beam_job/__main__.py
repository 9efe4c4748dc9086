"""`python -m beam_job`, also installed as `caption-images`."""

from __future__ import annotations

import os
import sys

_INTERRUPTED = 130


def command() -> None:
    """Runs the command and ends the process; from its first moment on, Ctrl-C ends it without a traceback."""
    _open_closed_streams()
    try:
        if shadowed := _shadowed_model():
            sys.exit(_refuse(shadowed))
        from beam_job.cli.command import command as run
    except KeyboardInterrupt:
        sys.stderr.flush()
        os._exit(_INTERRUPTED)
    run()


def _open_closed_streams() -> None:
    """Opens the null device for stdin, stdout and stderr where they are closed, as with `2>&-`.

    Otherwise the next file that is opened gets such a number, and what a library prints is written into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115  # None if it was closed
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _shadowed_model() -> str | None:
    """The path of another module `model` that Python finds before this project's package; None if there is none."""
    import importlib.util  # here, where Ctrl-C is caught

    spec = importlib.util.find_spec("model")
    if spec is None or spec.origin is None:
        return None
    own = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "model", "__init__.py")
    return None if not os.path.exists(own) or os.path.samefile(own, spec.origin) else spec.origin


def _refuse(path: str) -> int:
    print(
        f"caption-images: {path} hides the package model of caption-images; rename it, or start the command in another "
        "folder and without that one in PYTHONPATH",
        file=sys.stderr,
    )
    return 2


if __name__ == "__main__":
    command()
