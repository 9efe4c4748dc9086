"""Models of the Hugging Face Hub or in a local folder: their revision, their files, and one-line errors."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from model import CaptionerError

# Weights as safetensors, and text; nothing that Python would have to unpickle or to run.
FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.spm")
_REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")
_BLOCK = 2**20


@dataclass(frozen=True)
class ModelSource:
    """A model, in a revision that does not change.

    Attributes:
      name: `ORGANIZATION/NAME` on the Hub, or the path of a folder.
      revision: the commit on the Hub, or the checksum of the folder's files.
      is_folder: whether it is a local folder.
      kind: `model_type` of its config.json; None where that was not read.
    """

    name: str
    revision: str
    is_folder: bool
    kind: str | None = None

    @property
    def version(self) -> str:
        """For people and for comparison: name and revision."""
        return f"{Path(self.name).name if self.is_folder else self.name}@{self.revision}"

    def files(self) -> Path:
        """The folder with the model's files; from the Hub, they are downloaded unless they are in its cache.

        Raises:
          CaptionerError: they cannot be downloaded, or have no weights as safetensors.
        """
        folder = Path(self.name)
        if not self.is_folder:
            from huggingface_hub import snapshot_download

            with _explained(self.name, self.revision):
                folder = Path(snapshot_download(self.name, revision=self.revision, allow_patterns=list(FILES)))
        if not any(folder.glob("*.safetensors")):
            raise CaptionerError(
                f"--model={self.name} has no weights as safetensors; other formats can run code and are not loaded"
            )
        return folder


def find_source(model: str, revision: str | None = None) -> ModelSource:
    """The model that `--model=REPOSITORY[@REVISION]` or `--model=FOLDER` names.

    Args:
      model: the option's value.
      revision: of the run, if it has started; otherwise the named branch, tag or commit is looked up.

    Raises:
      CaptionerError: there is no such model, it may not be read, or it cannot be looked up.
    """
    if Path(model).is_dir():
        kind = _kind_of(Path(model, "config.json"), model)
        source = ModelSource(os.path.abspath(model), checksum_of(Path(model), FILES), True, kind)
        source.files()
        return source
    name, _, wanted = model.partition("@")
    if not _REPOSITORY.fullmatch(name):
        raise CaptionerError(f"--model={model} is neither a folder here nor a name like ORGANIZATION/NAME[@REVISION]")
    if revision is not None:
        return ModelSource(name, revision, False)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    with _explained(name, wanted or "main"):
        config = Path(hf_hub_download(name, "config.json", revision=wanted or None))
    return ModelSource(name, config.parent.name, False, _kind_of(config, name))  # .../snapshots/COMMIT/config.json


def _kind_of(config: Path, model: str) -> str:
    """The `model_type` of a config.json."""
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
        return str(found["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = (
            "has no config.json" if isinstance(error, FileNotFoundError) else "has no model_type in its config.json"
        )
        raise CaptionerError(
            f"--model={model} {reason}, so transformers cannot load it; give a folder that save_pretrained has written"
        ) from error


@contextlib.contextmanager
def _explained(name: str, revision: str) -> Iterator[None]:
    """Turns the errors of a download into a CaptionerError of one line."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{name}"
    try:
        yield
    except errors.GatedRepoError as error:
        reason = f"is gated: accept its terms at {page}, and log in (hf auth login, or HF_TOKEN)"
        raise CaptionerError(f"--model={name} {reason}") from error
    except errors.RepositoryNotFoundError as error:
        reason = f"was not found at {page}; check the name, or log in if it is private (hf auth login, or HF_TOKEN)"
        raise CaptionerError(f"--model={name} {reason}") from error
    except errors.RevisionNotFoundError as error:
        raise CaptionerError(f"--model={name} has no revision {revision!r}; see {page}/commits") from error
    except errors.LocalEntryNotFoundError as error:  # also where the Hub cannot be reached
        reason = f"is not in the cache ({constants.HF_HUB_CACHE}), and {constants.ENDPOINT} cannot be reached"
        raise CaptionerError(f"--model={name} {reason}; connect to the network, or give a folder") from error
    except errors.EntryNotFoundError as error:
        raise CaptionerError(f"--model={name} has no config.json, so transformers cannot load it") from error
    except errors.HFValidationError as error:
        raise CaptionerError(
            f"--model={name} is not a valid model name: {' '.join(str(error).split())[:200]}"
        ) from error
    except (OSError, errors.HfHubHTTPError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CaptionerError(f"--model={name} cannot be downloaded: {reason}") from error


def checksum_of(folder: Path, patterns: Iterable[str]) -> str:
    """Twelve letters that differ where any file of these patterns differs."""
    found = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}):
        found.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                found.update(block)
    return found.hexdigest()[:12]
