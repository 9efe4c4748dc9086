"""Saving a bundle: the previous one stays until the new one is complete, and nothing else is ever replaced."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from model import BundleError, check_bundle, load_captioner
from model.bundle_writer import save_bundle
from model.captioner import Captioner


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy to replace."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "folder" / "bundle"))


@pytest.fixture(scope="module")
def other(tiny_bundle: Path) -> Captioner:
    """A captioner with other weights than those of the bundle."""
    captioner = load_captioner(tiny_bundle)
    captioner.decoder.to_vocabulary.bias.assign(captioner.decoder.to_vocabulary.bias + 1)
    return captioner


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_bundle_is_replaced_and_nothing_is_left_beside_it(bundle: Path, other: Captioner) -> None:
    before = check_bundle(bundle)
    version = save_bundle(bundle, other, card="")
    assert version == check_bundle(bundle) != before
    assert os.listdir(bundle.parent) == ["bundle"]


def test_an_empty_folder_becomes_a_bundle(other: Captioner, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert save_bundle(tmp_path / "empty", other, card="") == check_bundle(tmp_path / "empty")


def test_a_link_to_a_bundle_stays_a_link(bundle: Path, other: Captioner, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bundle)
    version = save_bundle(tmp_path / "link", other, card="")
    assert (tmp_path / "link").is_symlink()
    assert check_bundle(bundle) == version


def test_a_damaged_bundle_may_be_replaced(bundle: Path, other: Captioner) -> None:
    (bundle / "weights.safetensors").write_bytes(b"half")
    assert save_bundle(bundle, other, card="") == check_bundle(bundle)


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(["notes.txt"], id="a folder of something else"),
        pytest.param(["config.json"], id="another program's configuration"),
        pytest.param(["config.json", "vocabulary.txt", "weights.safetensors"], id="names of ours without checksums"),
        pytest.param(["SHA256SUMS"], id="checksums of other files"),
        pytest.param(["photographs/dog.jpg"], id="a folder in it"),
    ],
)
@pytest.mark.parametrize("beside_a_bundle", [False, True])
def test_other_files_are_never_replaced(
    files: list[str], beside_a_bundle: bool, bundle: Path, other: Captioner, tmp_path: Path
) -> None:
    folder = bundle if beside_a_bundle else tmp_path / "theirs"
    if beside_a_bundle and not files[0].startswith(("notes", "photographs")):
        pytest.skip("these are files of a bundle")
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{'0' * 64}  backup.tar\n")
    before = content(folder)
    with pytest.raises(BundleError) as caught:
        save_bundle(folder, other, card="")
    assert str(folder) in str(caught.value)
    assert "choose another --output" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert content(folder) == before


def test_a_file_is_not_replaced(other: Captioner, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("theirs")
    with pytest.raises(BundleError, match="exists and is not a folder"):
        save_bundle(tmp_path / "file", other, card="")
    assert (tmp_path / "file").read_text() == "theirs"


@pytest.mark.parametrize("failing", range(4))
def test_after_a_failed_write_the_previous_bundle_is_there(
    failing: int, bundle: Path, other: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full at the first, second, ... file that is written."""
    before, written = content(bundle), []

    def failing_at_last(writer: Callable[..., int]) -> Callable[..., int]:
        def write(path: Path, data: object, **options: object) -> int:
            written.append(path)
            if len(written) > failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            return writer(path, data, **options)

        return write

    monkeypatch.setattr(Path, "write_bytes", failing_at_last(Path.write_bytes))
    monkeypatch.setattr(Path, "write_text", failing_at_last(Path.write_text))
    with pytest.raises(OSError, match="No space left"):
        save_bundle(bundle, other, card="new")
    assert content(bundle) == before
    assert os.listdir(bundle.parent) == ["bundle"]


def test_after_a_failed_rename_the_previous_bundle_is_there(
    bundle: Path, other: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, rename, renamed = content(bundle), Path.rename, []

    def fail_at_second(path: Path, target: Path) -> Path:
        renamed.append(path)
        if len(renamed) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_at_second)
    with pytest.raises(OSError, match="Input/output error"):
        save_bundle(bundle, other, card="new")
    assert content(bundle) == before
    assert os.listdir(bundle.parent) == ["bundle"]
