"""`python -m model COMMAND`: trains, evaluates and converts captioners."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import logging
import os
import resource
import sys
from collections.abc import Iterator

COMMANDS = {
    "train": "train a captioner, or continue from a bundle",
    "evaluate": "score captions against human captions: BLEU, METEOR, ROUGE-L, CIDEr",
    "explain": "draw the decoder's attention for each word of a caption",
    "compare": "write a page with the captions of two models side by side",
    "quantize": "convert the backbone of a bundle to 8-bit integers",
    "blend": "average the weights of several bundles",
    "extend": "add the words of more captions and sentences to a bundle's vocabulary",
    "shrink": "remove rare words from a bundle's vocabulary",
    "convert": "convert ImageNet weights of EfficientNet-Lite from PyTorch",
}
_VERBOSE = "--verbose"
_EXIT_USAGE, _EXIT_ERROR, _EXIT_INTERRUPTED = 2, 2, 130
# With less, the process dies of a segmentation fault while TensorFlow starts; with 3 GB it runs.
_MIN_ADDRESS_SPACE = 3 * 10**9


def usage() -> str:
    """The text of `--help`."""
    rows = "\n".join(f"  {name:<9} {summary}" for name, summary in COMMANDS.items())
    return (
        f"usage: python -m model COMMAND [options]\n\ncommands:\n{rows}\n\n"
        f"`python -m model COMMAND --help` lists the options of a command; {_VERBOSE} shows TensorFlow's logs."
    )


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns its exit code, 2 for wrong usage and for errors, 130 after Ctrl-C."""
    given = sys.argv[1:] if arguments is None else arguments
    name, *rest = [argument for argument in given if argument != _VERBOSE] or [""]
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name not in COMMANDS:
        print(f"python -m model: {_unknown_command(name)}", file=sys.stderr)
        return _EXIT_USAGE
    try:
        _check_address_space()
        return int(importlib.import_module(f"model.training.{name}").main(rest))
    except KeyboardInterrupt:
        print(f"model {name}: interrupted", file=sys.stderr)
        return _EXIT_INTERRUPTED
    except (ImportError, MemoryError, OSError) as error:
        print(f"model {name}: {' '.join(str(error).split()) or 'not enough memory'}", file=sys.stderr)
        return _EXIT_ERROR


def _unknown_command(name: str) -> str:
    if not name:
        return f"no command given; use one of {', '.join(COMMANDS)}"
    if close := difflib.get_close_matches(name, COMMANDS, n=1):
        return f"unknown command {name!r}; did you mean {close[0]!r}?"
    return f"unknown command {name!r}; use one of {', '.join(COMMANDS)}"


def _check_address_space() -> None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < _MIN_ADDRESS_SPACE:
        raise MemoryError(
            f"the limit of {limit / 1e9:.1f} GB on this process's address space (ulimit -v) is too small for "
            f"TensorFlow; raise it to {_MIN_ADDRESS_SPACE / 1e9:.0f} GB or more"
        )


@contextlib.contextmanager
def _hidden_native_logs() -> Iterator[None]:
    """Discards what TensorFlow and LiteRT write to file descriptor 2; Python's stderr keeps working."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for library in ("absl", "tensorflow"):
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        terminal = os.dup(2)
    except OSError:  # stderr is closed
        yield
        return
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), 2)
    stderr = sys.stderr
    with os.fdopen(terminal, "w", buffering=1, errors="backslashreplace") as sys.stderr:
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            sys.stderr = stderr


if __name__ == "__main__":
    with contextlib.nullcontext() if _VERBOSE in sys.argv else _hidden_native_logs():
        CODE = main()
    sys.exit(CODE)
