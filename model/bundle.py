"""Reads bundles: a captioner as a folder of plain data. Loading a bundle never executes anything in it.

config.json            the architecture (`CaptionerConfig`)
vocabulary.txt         one word per line
weights.safetensors    named arrays, float16 or float32
SHA256SUMS             checksums of the three files above, as `sha256sum -c` reads them; the version derives from them
MODEL_CARD.md          a description for readers
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import load_file

from model.config import CaptionerConfig, Decoding
from model.vocabulary import Vocabulary

if TYPE_CHECKING:
    from model.captioner import Captioner
    from model.cpu_captioner import CpuCaptioner
    from model.network import Decoder, Encoder

DEFAULT_BUNDLE = Path(__file__).parent / "default"
CONFIG, VOCABULARY, WEIGHTS, CHECKSUMS, CARD = (
    "config.json",
    "vocabulary.txt",
    "weights.safetensors",
    "SHA256SUMS",
    "MODEL_CARD.md",
)
CHECKED = (CONFIG, VOCABULARY, WEIGHTS)
_SIZE_LIMITED = (CONFIG, CHECKSUMS)
_MAX_BYTES = 1 << 16  # for each file of _SIZE_LIMITED
_DTYPES = ("F16", "F32")


class BundleError(ValueError):
    """The folder is not an intact bundle, or may not become one; the message says why and what to do."""


def check_bundle(folder: Path) -> str:
    """Verifies the bundle's checksums and returns its version; does not import TensorFlow.

    Raises:
      BundleError: a file is missing, is a link out of the folder, cannot be read or differs from its checksum, or
        config.json is not valid.
    """
    try:
        return _check(folder)
    except OSError as error:
        raise BundleError(
            f"no model at {folder}: {error.strerror or error}; change its permissions, or name another folder"
        ) from error


def _check(folder: Path) -> str:
    if not folder.is_dir():
        raise BundleError(f"no model at {folder}: no such folder; name one that `python -m model train` wrote")
    for name in (*CHECKED, CHECKSUMS):
        _check_file(folder, name)
    expected = read_checksums(folder)
    for name in CHECKED:
        if sha256_of(folder / name) != expected.get(name):
            raise BundleError(f"the model at {folder} is damaged: {name} differs from its checksum in {CHECKSUMS}")
    backbone = load_config(folder).backbone
    return f"{backbone}-{sha256_of(folder / CHECKSUMS)[:12]}"


def _check_file(folder: Path, name: str) -> None:
    path = folder / name
    if not path.is_file():
        raise BundleError(f"no model at {folder}: {name} is missing; name a folder that `python -m model train` wrote")
    if path.resolve().parent != folder.resolve():
        raise BundleError(f"the model at {folder} is not complete: {name} links out of the folder; copy the file")
    if name in _SIZE_LIMITED and path.stat().st_size > _MAX_BYTES:
        raise BundleError(f"the model at {folder} has a bad {name}: larger than {_MAX_BYTES} bytes")


def read_checksums(folder: Path) -> dict[str, str]:
    """Checksums by file name. Other names are refused, so that `sha256sum -c` never opens other files either."""
    checksums: dict[str, str] = {}
    for line in (folder / CHECKSUMS).read_text(encoding="utf-8", errors="replace").splitlines():
        checksum, _, name = line.partition("  ")
        if name not in CHECKED or name in checksums:
            raise BundleError(f"the model at {folder} has a bad {CHECKSUMS}: it must name {CHECKED}, not {name!r:.80}")
        checksums[name] = checksum
    return checksums


def load_config(folder: Path) -> CaptionerConfig:
    """Reads the architecture from config.json. Raises BundleError if the file is not valid."""
    try:
        return CaptionerConfig(**json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise BundleError(f"the model at {folder} has a bad {CONFIG}: {_line(error)}") from error


@overload
def load_captioner(
    folder: Path = ...,
    decoding: Decoding | None = ...,
    engine: Literal["tensorflow"] = ...,
    log: Callable[[str], None] = ...,
    precision: str = ...,
) -> Captioner: ...


@overload
def load_captioner(
    folder: Path, decoding: Decoding | None, engine: str, log: Callable[[str], None] = ..., precision: str = ...
) -> Captioner | CpuCaptioner: ...


@overload
def load_captioner(
    folder: Path = ...,
    decoding: Decoding | None = ...,
    *,
    engine: str,
    log: Callable[[str], None] = ...,
    precision: str = ...,
) -> Captioner | CpuCaptioner: ...


def load_captioner(
    folder: str | Path = DEFAULT_BUNDLE,
    decoding: Decoding | None = None,
    engine: str = "tensorflow",
    log: Callable[[str], None] = print,
    precision: str = "float32",
) -> Captioner | CpuCaptioner:
    """Loads the captioner in a bundle, after verifying its checksums.

    Args:
      folder: the bundle; by default the one that ships with the project.
      decoding: how captions are decoded; `Decoding()` by default.
      engine: what runs the model, one of `model.engine_choice.ENGINES`. "litert" and "openvino" are the fastest on
        a CPU and cache the converted encoder in the user's cache folder; once it is there, they need no TensorFlow.
      log: receives one-line messages about the engine.
      precision: the precision of TensorFlow's encoder, one of `model.engine_choice.PRECISIONS`.

    Raises:
      BundleError: the bundle is damaged, or its arrays do not fit its configuration.
      EngineError: the engine cannot run this encoder here.
      ValueError: `engine` or `precision` is unknown, or they exclude each other.
    """
    from model.devices import open_gpus
    from model.encoder_engine import open_encoder
    from model.engine_choice import choose_precision

    folder = Path(folder)
    precision = choose_precision(engine, precision)
    version = check_bundle(folder)
    config = load_config(folder)
    decoding = decoding or Decoding()
    vocabulary = _load_vocabulary(folder)
    build = functools.cache(lambda: _build_network(folder, config, len(vocabulary), precision))
    if precision == "float16":
        engine = "tensorflow"  # the others compute in float32
    encode = open_encoder(engine, lambda: build()[0], config.input_size, sha256_of(folder / CHECKSUMS), log)
    if encode:
        from model.cpu_captioner import CpuCaptioner
        from model.numpy_decoder import NumpyDecoder

        # The arrays fit: the encoder was converted from a network that was built from this file, now or earlier.
        decoder = NumpyDecoder(_load_arrays(folder / WEIGHTS, "decoder/"))
        return CpuCaptioner(config, vocabulary, encode, decoder, version, decoding)
    from model.captioner import Captioner

    encoder, network_decoder = build()
    runs = "xla" if open_gpus() else "tensorflow"
    return Captioner(config, vocabulary, encoder, network_decoder, version, decoding, engine=runs, log=log)


def _load_vocabulary(folder: Path) -> Vocabulary:
    try:
        return Vocabulary.load(folder / VOCABULARY)
    except Exception as error:
        raise BundleError(f"the model at {folder} cannot be built: {_line(error)}") from error


def _build_network(folder: Path, config: CaptionerConfig, words: int, precision: str) -> tuple[Encoder, Decoder]:
    """The network with the bundle's weights. Raises BundleError."""
    from model.network import build_network

    try:
        _check_shapes(folder / WEIGHTS, config, words)
        encoder, decoder = build_network(config, words, precision=precision)
        assign_weights(folder / WEIGHTS, encoder, decoder)
    except BundleError:
        raise
    except Exception as error:  # a crafted bundle can make Keras or safetensors raise anything
        raise BundleError(f"the model at {folder} cannot be built: {_line(error)}") from error
    return encoder, decoder


def _load_arrays(path: Path, prefix: str) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a safetensors file whose names start with `prefix`."""
    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118


def _check_shapes(path: Path, config: CaptionerConfig, words: int) -> None:
    """Compares the header of the file with the configuration, before memory for its arrays is allocated."""
    expected = {
        "decoder/embedding/embeddings": [words, config.embedding_units],
        "decoder/gru/recurrent_kernel": [config.units, 3 * config.units],
        "decoder/to_vocabulary/kernel": [config.units, words],
    }
    with safe_open(path, framework="np") as file:
        for name in file.keys():  # noqa: SIM118  # not a dict
            array = file.get_slice(name)
            if array.get_dtype() not in _DTYPES:
                raise BundleError(
                    f"{path}: {name!r:.80} has dtype {array.get_dtype()}, not one of {', '.join(_DTYPES)}"
                )
            if name in expected and array.get_shape() != expected[name]:
                raise _shape_error(path, name, array.get_shape(), expected[name])
        if missing := sorted(expected.keys() - set(file.keys())):
            raise BundleError(f"{path} has no array {missing[0]}")


def assign_weights(path: Path, encoder: object, decoder: object) -> None:
    """Assigns the arrays of a safetensors file to the network's variables of the same names."""
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
            raise _shape_error(path, name, arrays[name].shape, variable.shape)
        variable.assign(arrays[name].astype(np.float32))


def _shape_error(path: Path, name: str, shape: Sequence[int], expected: Sequence[int]) -> BundleError:
    return BundleError(f"{path}: {name} has shape {tuple(shape)}, the network expects {tuple(expected)}")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def sha256_of(path: Path) -> str:
    """The hexadecimal SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
