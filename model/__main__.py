"""`python -m model COMMAND`: trains, scores and converts captioners."""

from __future__ import annotations

import importlib
import sys

COMMANDS = {
    "train": "train a captioner, or continue from a bundle",
    "evaluate": "score captions against human ones: BLEU, METEOR, ROUGE-L, CIDEr",
    "explain": "draw where the attention looked at each word of a caption",
    "compare": "write a page with the captions of two models side by side",
    "quantize": "turn the backbone of a bundle into 8-bit integers",
    "blend": "average the weights of several bundles",
    "convert": "convert ImageNet weights of EfficientNet-Lite from PyTorch",
}
_EXIT_USAGE = 2


def usage() -> str:
    """The text of `--help`."""
    rows = "\n".join(f"  {name:<9} {summary}" for name, summary in COMMANDS.items())
    return (
        f"usage: python -m model COMMAND [options]\n\ncommands:\n{rows}\n\n"
        "`python -m model COMMAND --help` lists the options of a command."
    )


def main(arguments: list[str] | None = None) -> int:
    """Runs one of `COMMANDS`; returns its exit code."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name not in COMMANDS:
        problem = f"unknown command {name!r}" if name else "no command given"
        print(f"python -m model: {problem}; use one of {', '.join(COMMANDS)}", file=sys.stderr)
        return _EXIT_USAGE
    return int(importlib.import_module(f"model.training.{name}").main(rest))


if __name__ == "__main__":
    sys.exit(main())
