"""A captioner as a folder of plain data: nothing in it is executed when it is loaded, whoever made it.

config.json            the architecture (`CaptionerConfig`)
vocabulary.txt         one word a line
weights.safetensors    arrays by name, float16 or float32
SHA256SUMS             checksums of the three above, as `sha256sum -c` reads them; they give the version
MODEL_CARD.md          for people
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from model.config import CaptionerConfig, Decoding
from model.vocabulary import Vocabulary

if TYPE_CHECKING:
    from model.captioner import Captioner

DEFAULT_BUNDLE = Path(__file__).parent / "default"
CONFIG, VOCABULARY, WEIGHTS, CHECKSUMS, CARD = (
    "config.json",
    "vocabulary.txt",
    "weights.safetensors",
    "SHA256SUMS",
    "MODEL_CARD.md",
)
CHECKED = (CONFIG, VOCABULARY, WEIGHTS)
_SMALL = (CONFIG, CHECKSUMS)
_SMALL_BYTES = 1 << 16
_DTYPES = ("F16", "F32")
_EXACT = ("/step", "/bias")  # of an 8-bit backbone: its sums are whole numbers with these alone


class BundleError(ValueError):
    """The folder is not a whole, unharmed bundle; the message says what is wrong with it."""


def save_bundle(folder: Path, captioner: Captioner, card: str, dtype: str = "float16") -> str:
    """Writes a bundle and returns its version.

    Args:
      folder: made if it is not there.
      captioner: what to save.
      card: text of MODEL_CARD.md.
      dtype: of the weights, "float16" or "float32".
    """
    from model.network import named_variables

    folder.mkdir(parents=True, exist_ok=True)
    config = json.dumps(dataclasses.asdict(captioner.config), indent=2) + "\n"
    (folder / CONFIG).write_text(config, encoding="utf-8")
    captioner.vocabulary.save(folder / VOCABULARY)
    variables = named_variables(captioner.encoder, captioner.decoder)
    exact = _EXACT if captioner.config.int8 else ()
    arrays = {
        name: np.asarray(value).astype("float32" if name.endswith(exact) else dtype)
        for name, value in variables.items()
    }
    save_file(arrays, folder / WEIGHTS)
    (folder / CARD).write_text(card, encoding="utf-8")
    checksums = "".join(f"{_sha256(folder / name)}  {name}\n" for name in CHECKED)
    (folder / CHECKSUMS).write_text(checksums, encoding="utf-8")
    return check_bundle(folder)


def check_bundle(folder: Path) -> str:
    """The version of the bundle, after checking that it is whole; imports no TensorFlow.

    Raises:
      BundleError: a file is missing, lies elsewhere, cannot be read or differs from its checksum, or the
        configuration is none.
    """
    try:
        return _check(folder)
    except OSError as error:
        raise BundleError(
            f"no model at {folder}: {error.strerror or error}; change its rights, or name another folder"
        ) from error


def _check(folder: Path) -> str:
    if not folder.is_dir():
        raise BundleError(f"no model at {folder}: there is no such folder; name one that `python -m model train` wrote")
    for name in (*CHECKED, CHECKSUMS):
        _check_file(folder, name)
    expected = _read_checksums(folder)
    for name in CHECKED:
        if _sha256(folder / name) != expected.get(name):
            raise BundleError(f"the model at {folder} is damaged: {name} differs from its checksum in {CHECKSUMS}")
    backbone = load_config(folder).backbone
    return f"{backbone}-{_sha256(folder / CHECKSUMS)[:12]}"


def _check_file(folder: Path, name: str) -> None:
    path = folder / name
    if not path.is_file():
        raise BundleError(f"no model at {folder}: {name} is missing; name a folder that `python -m model train` wrote")
    if path.resolve().parent != folder.resolve():
        raise BundleError(f"the model at {folder} is not whole: {name} is a link to another folder; copy the file")
    if name in _SMALL and path.stat().st_size > _SMALL_BYTES:
        raise BundleError(f"the model at {folder} has a bad {name}: more than {_SMALL_BYTES} bytes")


def _read_checksums(folder: Path) -> dict[str, str]:
    """Checksums by file; nobody who checks them with other tools shall be led to other files."""
    checksums: dict[str, str] = {}
    for line in (folder / CHECKSUMS).read_text(encoding="utf-8", errors="replace").splitlines():
        checksum, _, name = line.partition("  ")
        if name not in CHECKED or name in checksums:
            raise BundleError(f"the model at {folder} has a bad {CHECKSUMS}: it must name {CHECKED}, not {name!r:.80}")
        checksums[name] = checksum
    return checksums


def load_config(folder: Path) -> CaptionerConfig:
    """The architecture in `config.json`. Raises BundleError where it is not one."""
    try:
        return CaptionerConfig(**json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise BundleError(f"the model at {folder} has a bad {CONFIG}: {_line(error)}") from error


def load_captioner(
    folder: Path = DEFAULT_BUNDLE,
    decoding: Decoding | None = None,
    engine: str = "tensorflow",
    tell: Callable[[str], None] = print,
    precision: str = "float32",
) -> Captioner:
    """The captioner in a bundle, after its checksums.

    Args:
      folder: the bundle; by default the one that ships with the project.
      decoding: how to choose words.
      engine: what runs the encoder, one of `model.engine_choice.ENGINES`; litert is the fastest on a CPU, and keeps
        what it has converted in the user's cache folder.
      tell: takes a line for people, about the engine.
      precision: what TensorFlow's encoder computes in, one of `model.engine_choice.PRECISIONS`.

    Raises:
      BundleError: the bundle is not whole, or its arrays do not fit its configuration.
      EngineError: the engine cannot serve.
      ValueError: no such engine or precision, or they contradict each other.
    """
    from model.captioner import Captioner
    from model.devices import open_gpus
    from model.engine_choice import choose_precision, open_engine
    from model.network import build_network

    precision = choose_precision(engine, precision)
    version = check_bundle(folder)
    config = load_config(folder)
    try:
        vocabulary = Vocabulary.load(folder / VOCABULARY)
        _check_shapes(folder / WEIGHTS, config, len(vocabulary))
        encoder, decoder = build_network(config, len(vocabulary), precision=precision)
        assign_weights(folder / WEIGHTS, encoder, decoder)
    except BundleError:
        raise
    except Exception as error:  # Whatever Keras or safetensors say of a bundle that was made to deceive.
        raise BundleError(f"the model at {folder} cannot be built: {_line(error)}") from error
    if precision == "float16":
        engine = "tensorflow"  # LiteRT computes in float32
    encode = open_engine(engine, encoder, config.input_size, _sha256(folder / CHECKSUMS), tell)
    xla = encode is None and open_gpus() > 0
    return Captioner(config, vocabulary, encoder, decoder, version, decoding, encode, xla, tell)


def _check_shapes(path: Path, config: CaptionerConfig, words: int) -> None:
    """Compares the file's header with what the configuration is about to take memory for."""
    wanted = {
        "decoder/embedding/embeddings": [words, config.embedding_units],
        "decoder/gru/recurrent_kernel": [config.units, 3 * config.units],
        "decoder/to_vocabulary/kernel": [config.units, words],
    }
    with safe_open(path, framework="np") as file:
        for name in file.keys():  # noqa: SIM118  # it is no dict
            array = file.get_slice(name)
            if array.get_dtype() not in _DTYPES:
                raise BundleError(
                    f"{path}: {name!r:.80} has dtype {array.get_dtype()}, not one of {', '.join(_DTYPES)}"
                )
            if name in wanted and array.get_shape() != wanted[name]:
                raise _other_shape(path, name, array.get_shape(), wanted[name])
        if missing := sorted(wanted.keys() - set(file.keys())):
            raise BundleError(f"{path} has no array {missing[0]}")


def assign_weights(path: Path, encoder: object, decoder: object) -> None:
    """Puts the arrays of a safetensors file into the network's variables, name by name."""
    from model.network import named_variables

    arrays = load_file(path)
    variables = named_variables(encoder, decoder)  # type: ignore[arg-type]
    if arrays.keys() != variables.keys():
        odd = sorted(arrays.keys() ^ variables.keys())
        raise BundleError(
            f"{path} has {len(arrays)} arrays, the network {len(variables)}; first difference: {odd[0]:.80}"
        )
    for name, variable in variables.items():
        if arrays[name].shape != variable.shape:
            raise _other_shape(path, name, arrays[name].shape, variable.shape)
        variable.assign(arrays[name].astype(np.float32))


def _other_shape(path: Path, name: str, shape: Sequence[int], wanted: Sequence[int]) -> BundleError:
    return BundleError(f"{path}: {name} has shape {tuple(shape)}, the network wants {tuple(wanted)}")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
