"""Bundles made by an attacker, with checksums that fit: loading fails with one line, runs nothing, takes no memory."""

from __future__ import annotations

import json
import os
import pickle
import re
import resource
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model import BundleError, CaptionerConfig, check_bundle, load_captioner
from model.backbones import BACKBONES
from model.config import BACKBONE_NAMES
from tests.bundles import reseal

CONFIG, VOCABULARY, WEIGHTS, CHECKSUMS = "config.json", "vocabulary.txt", "weights.safetensors", "SHA256SUMS"


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy to harm."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Lets this process take 1 GiB more of address space: what an attacker's numbers ask for does not fit in."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def refused(bundle: Path) -> str:
    """What is said of the bundle: one line that names its place."""
    with pytest.raises(BundleError) as caught:
        load_captioner(bundle)
    message = str(caught.value)
    assert str(bundle) in message
    assert "\n" not in message
    assert len(message) < 600
    return message.replace(str(bundle), "")


def sealed(bundle: Path, name: str, content: bytes) -> str:
    (bundle / name).write_bytes(content)
    reseal(bundle)
    return refused(bundle)


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A file of that header, whatever it claims."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def array(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("name", [CONFIG, VOCABULARY, WEIGHTS])
def test_a_pickle_is_not_unpickled(bundle: Path, name: str, tmp_path: Path) -> None:
    content = pickle.dumps(Bomb(tmp_path / "trace"))
    sealed(bundle, name, content)
    assert not (tmp_path / "trace").exists()
    pickle.loads(content)
    assert (tmp_path / "trace").exists()  # it would have


def test_arrays_of_python_objects_are_not_unpickled(bundle: Path, tmp_path: Path) -> None:
    """Pickled objects, which NumPy's own format would hold."""
    with (bundle / WEIGHTS).open("wb") as file:
        np.save(file, np.array([Bomb(tmp_path / "trace")], dtype=object), allow_pickle=True)
    reseal(bundle)
    assert "cannot be built" in refused(bundle)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x01", id="a byte"),
        pytest.param(safetensors({}, length=2**63), id="a header longer than memory"),
        pytest.param(safetensors({}, length=90_000_000), id="a header longer than the file"),
        pytest.param(safetensors(b"{"), id="a header that is no JSON"),
        pytest.param(safetensors(b"[" * 100_000), id="a header nested deeply"),
        pytest.param(safetensors(b"\xff\xfe"), id="a header that is no text"),
        pytest.param(safetensors({"a": array([2], 0, 8)}), id="an array beyond the end"),
        pytest.param(safetensors({"a": array([2], 8, 0)}, bytes(8)), id="an array that ends before it starts"),
        pytest.param(safetensors({"a": array([2], -8, 0)}, bytes(8)), id="an array before the start"),
        pytest.param(safetensors({"a": array([2], 0, 8), "b": array([2], 4, 12)}, bytes(12)), id="arrays overlapping"),
        pytest.param(safetensors({"a": array([2], 0, 8)}, bytes(16)), id="bytes of no array"),
        pytest.param(safetensors({"a": array([2**62, 8], 0, 8)}, bytes(8)), id="a shape beyond 64 bits"),
        pytest.param(safetensors({"a": array([10**12], 0, 8)}, bytes(8)), id="a gigantic shape"),
        pytest.param(safetensors({"a": array([2], 0, 8, "O")}, bytes(8)), id="a dtype of objects"),
        pytest.param(safetensors({"a": array([1], 0, 8, "I64")}, bytes(8)), id="a dtype of whole numbers"),
        pytest.param(safetensors({"a": array([4], 0, 8, "BF16")}, bytes(8)), id="a dtype that NumPy lacks"),
        pytest.param(safetensors({"../../a\x1b[2J": array([2], 0, 8)}, bytes(8)), id="an array named as a path"),
        pytest.param(safetensors({"__metadata__": {"a": 1}}), id="metadata of another form"),
        pytest.param(safetensors({}), id="no arrays"),
    ],
)
def test_lying_weights(bundle: Path, content: bytes, little_memory: None) -> None:
    sealed(bundle, WEIGHTS, content)


def test_arrays_of_another_dtype_are_named(bundle: Path) -> None:
    arrays = load_file(bundle / WEIGHTS)
    arrays["decoder/gru/bias"] = arrays["decoder/gru/bias"].astype(np.int64)
    save_file(arrays, bundle / WEIGHTS)
    reseal(bundle)
    assert "'decoder/gru/bias' has dtype I64, not one of F16, F32" in refused(bundle)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        pytest.param({"units": 10**9}, "units must be a whole number from 1 to 8192, not 1000000000", id="units"),
        pytest.param({"units": 8192}, "the network expects", id="units that the weights do not have"),
        pytest.param({"embedding_units": 8192}, "the network expects", id="embedding that the weights do not have"),
        pytest.param({"embedding_units": 10**9}, "embedding_units must be", id="embedding"),
        pytest.param({"max_words": 10**9}, "max_words must be", id="words"),
        pytest.param({"input_size": 10**6}, "input_size must be", id="image"),
        pytest.param({"units": True}, "units must be a whole number from 1 to 8192, not True", id="truth for a number"),
        pytest.param({"units": "13"}, "units must be", id="text for a number"),
        pytest.param({"units": float("inf")}, "units must be", id="infinity"),
        pytest.param({"dropout": float("nan")}, "dropout must be", id="NaN"),
        pytest.param({"dropout": []}, "bad config.json", id="a list for a number"),
        pytest.param({"initial_state": {}}, "initial_state must be one of", id="an object for text"),
        pytest.param({"backbone": "os.system"}, "backbone must be one of .*, not 'os.system'", id="a function"),
        pytest.param({"backbone": "../../etc/passwd"}, "backbone must be one of", id="a path"),
        pytest.param({"backbone": ["resnet50_v2"]}, "backbone must be one of", id="a list for text"),
        pytest.param({"backbone": "\x1b[2J" * 1000}, "backbone must be one of", id="control characters, and many"),
        pytest.param({"__class__": "os.system"}, "bad config.json", id="a key of Python's"),
        pytest.param({"weights": "../../x"}, "bad config.json", id="a key that names a file"),
    ],
)
def test_odd_configurations(bundle: Path, config: dict[str, Any], said: str, little_memory: None) -> None:
    given = json.loads((bundle / CONFIG).read_text()) | config
    message = sealed(bundle, CONFIG, json.dumps(given).encode())
    assert re.search(said, message), message


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[" * 60_000 + b"]" * 5_000, id="lists nested deeply"),
        pytest.param(b'{"a":' * 10_000, id="objects nested deeply"),
        pytest.param(b"\xff", id="no text"),
        pytest.param(b'{"units": ' + b"9" * 5000 + b"}", id="a number of 5,000 digits"),
        pytest.param(b'{"units": 1' + b"0" * 70_000 + b"}", id="a file that is too large"),
    ],
)
def test_configurations_that_are_none(bundle: Path, content: bytes) -> None:
    assert "bad config.json" in sealed(bundle, CONFIG, content)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        pytest.param(["a", "dog", "a"], "contains 'a' twice", id="twice"),
        pytest.param(["a", "", "dog"], "word 5 of the vocabulary must be text without blanks, not ''", id="empty"),
        pytest.param(["a", "two words"], "not 'two words'", id="blank"),
        pytest.param(["a", "\x1b[31mdog"], r"not '\\x1b\[31mdog'", id="escape"),
        pytest.param(["a", "\x9b31m"], r"not '\\x9b31m'", id="escape of one character"),
        pytest.param(["a", "nul\0"], r"not 'nul\\x00'", id="NUL"),
        pytest.param([str(n) for n in range(100_000)], "has shape .*, the network expects", id="many more words"),
    ],
)
def test_odd_vocabularies(bundle: Path, lines: list[str], said: str) -> None:
    text = "\n".join(["<pad>", "<unk>", "<start>", "<end>", *lines]) + "\n"
    message = sealed(bundle, VOCABULARY, text.encode())
    assert re.search(said, message), message


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "sub/../config.json", "config.json", "", "MODEL_CARD.md"])
def test_checksums_name_the_bundles_files_alone(bundle: Path, name: str) -> None:
    with (bundle / CHECKSUMS).open("a") as checksums:
        checksums.write(f"{'0' * 64}  {name}\n")
    assert f"it must name {(CONFIG, VOCABULARY, WEIGHTS)}, not {name!r}" in refused(bundle)


@pytest.mark.parametrize("name", [CONFIG, VOCABULARY, WEIGHTS, CHECKSUMS])
@pytest.mark.parametrize("relative", [True, False], ids=["relative", "absolute"])
def test_files_that_are_links_out_of_the_folder(bundle: Path, name: str, relative: bool) -> None:
    outside = bundle.parent / f"outside-{name}"
    (bundle / name).rename(outside)
    (bundle / name).symlink_to(f"../{outside.name}" if relative else outside)
    with pytest.raises(BundleError, match=f"{name} links out of the folder"):
        check_bundle(bundle)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_what_is_no_file(bundle: Path, name: str) -> None:
    """A device or a pipe would never end."""
    (bundle / name).unlink()
    os.mkfifo(bundle / name)
    assert f"{name} is missing" in refused(bundle)


def test_a_bundle_that_is_a_link_is_one(bundle: Path) -> None:
    (bundle.parent / "latest").symlink_to(bundle)
    assert check_bundle(bundle.parent / "latest") == check_bundle(bundle)


def test_the_names_of_backbones_are_those_there_are() -> None:
    assert tuple(BACKBONES) == BACKBONE_NAMES
    for backbone in BACKBONES.values():
        assert CaptionerConfig(backbone.name, backbone.input_size).backbone == backbone.name
