"""Shared by the commands of `python -m model`: parsers, one-line errors, and output files that are safe to replace."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from model.devices import is_out_of_memory
from model.engine_choice import EngineError
from model.one_line_parser import OneLineParser
from model.training.metrics import MetricsError

EXIT_OK, EXIT_PARTIAL, EXIT_ERROR = 0, 1, 2
_MARKER_BYTES = 1024  # a file of ours names its command within these


class OutputError(ValueError):
    """The output path holds a file that this command did not write."""


def command_parser(name: str, description: str | None) -> OneLineParser:
    """The parser of `python -m model NAME`; its help shows `description` as it is."""
    return OneLineParser(
        f"python -m model {name}", description=description, epilog="`--verbose` shows TensorFlow's logs."
    )


def run_command(name: str, run: Callable[[], int]) -> int:
    """Calls `run` and returns its exit code; an expected error becomes one line on stderr and `EXIT_ERROR`."""
    try:
        return run()
    except (ValueError, OSError, EngineError, MetricsError) as error:
        message = format_error(error)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        message = format_error(error)
    print(f"model {name}: {message}", file=sys.stderr)
    return EXIT_ERROR


def format_error(error: BaseException) -> str:
    """The error in one line, without Python's type names."""
    if is_out_of_memory(error):
        return (
            "not enough memory; free some or raise the limit (ulimit -v), "
            f"or use fewer images or a smaller batch ({_one_line(error) or type(error).__name__})"
        )
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return _one_line(error)


def check_output_file(path: Path, command: str) -> None:
    """Checks that `path` does not exist, or is a file that `write_output_file` wrote for `command`.

    Raises:
      OutputError: it is anything else, which a command must not replace.
    """
    if not os.path.lexists(path):
        return
    if not path.is_file():
        raise OutputError(f"{path} exists and is not a file; choose another --output")
    with path.open("rb") as file:
        if command.encode() not in file.read(_MARKER_BYTES):
            raise OutputError(f"{path} exists and was not written by `{command}`; delete it or choose another --output")


def check_output_folder(path: Path) -> None:
    """Raises OutputError unless the folder of `path` exists; before the work that the file is to hold."""
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}; create it or choose another --output")


def write_output_file(path: Path, command: str, content: bytes) -> None:
    """Writes `content`, which names `command` near its start, atomically.

    Raises:
      OutputError: as `check_output_file`.
      OSError: the file cannot be written.
    """
    check_output_file(path, command)
    replace_file(path, content)


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file that readers see as a whole or not at all. Raises OSError, which names the file."""
    try:
        descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".partial", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            os.chmod(partial, 0o666 & ~_umask())
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)
            raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:1000]
