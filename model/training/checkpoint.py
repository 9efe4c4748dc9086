"""The checkpoint of an interrupted training, with its options, and the training log."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from model.training.command import replace_file

_RECIPE, _LOG = "options", "log"  # keys of the file's metadata


class Checkpoint:
    """`checkpoint.safetensors` and `log.jsonl` in a training's folder.

    Args:
      folder: created when the first epoch ends.
      recipe: everything that the training's result depends on, as JSON values.
    """

    def __init__(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        self.path = folder / "checkpoint.safetensors"
        self._log_path = folder / "log.jsonl"
        self._recipe = json.loads(json.dumps(recipe))

    def restore(self, variables: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Assigns the saved arrays to `variables` and returns the log; without a checkpoint, returns no epochs.

        Raises:
          ValueError: the checkpoint is damaged or belongs to another recipe, or there is a log without a checkpoint.
        """
        if not self.path.exists():
            if self._log_path.exists():
                raise ValueError(f"{self._log_path} exists without a checkpoint; delete it or choose another --output")
            return []
        try:
            with safe_open(self.path, framework="numpy") as file:
                metadata = file.metadata() or {}
                self._check_recipe(json.loads(metadata[_RECIPE]))
                for name, variable in variables.items():
                    variable.assign(file.get_tensor(name))
                return list(json.loads(metadata[_LOG]))
        except (SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{self.path} is damaged or not a checkpoint; delete {self.path.parent} to start again"
            ) from error

    def save(self, variables: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> None:
        """Replaces both files, each atomically. Raises OSError if one cannot be written."""
        arrays = {name: np.asarray(variable) for name, variable in variables.items()}
        metadata = {_LOG: json.dumps(log), _RECIPE: json.dumps(self._recipe, sort_keys=True)}
        replace_file(self.path, save(arrays, metadata))
        replace_file(self._log_path, "".join(json.dumps(line) + "\n" for line in log).encode())

    def _check_recipe(self, saved: Mapping[str, Any]) -> None:
        differences = [
            f"{name} was {_short(saved.get(name))}, is {_short(self._recipe.get(name))}"
            for name in sorted(saved.keys() | self._recipe.keys())
            if saved.get(name) != self._recipe.get(name)
        ]
        if differences:
            raise ValueError(
                f"{self.path} was made with other options or data: {'; '.join(differences)}; repeat the earlier "
                "command to resume, or choose another --output to start over"
            )


def _short(value: Any) -> str:
    """A recipe's value for people; checksums are cut."""
    text = "not recorded" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
