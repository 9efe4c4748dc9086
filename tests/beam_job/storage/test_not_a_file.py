"""FIFOs, devices, sockets and links that lead nowhere: named like images, they fail at once and hang nothing."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from beam_job.inputs.filters import Filters
from beam_job.inputs.listing import InputError, list_images
from beam_job.inputs.lists import ListError, read_list
from beam_job.loading.images import fetch
from beam_job.records import Failure, ImageInput
from beam_job.storage import CONTENT, LATER, Allowed, StorageError, storage_for

T = TypeVar("T")


def soon(work: Callable[[], T]) -> T:
    """What `work` returns; fails where it hangs."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "it hangs"
    if errors:
        raise errors[0]
    return results[0]


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))  # an address is short


def link_to_terminal(path: Path) -> None:
    path.symlink_to("/dev/ptmx")


def link_to_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def link_to_fifo(path: Path) -> None:
    os.mkfifo(path.with_suffix(".pipe"))
    path.symlink_to(path.with_suffix(".pipe"))


@pytest.fixture(params=[make_fifo, make_socket, link_to_terminal, link_to_zeros, link_to_fifo])
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with an image, and something that is no file."""
    (tmp_path / "a.jpg").write_bytes(b"image")
    request.param(tmp_path / "x.jpg")
    return tmp_path / "x.jpg"


def test_reading_and_opening_fail_at_once(odd: Path) -> None:
    storage = storage_for(str(odd))
    for call in (storage.read, storage.open):
        with pytest.raises(StorageError, match="not a regular file") as caught:
            soon(lambda call=call: call(str(odd)))
        assert (caught.value.cause, caught.value.transient, caught.value.retry_when) == ("NotAFile", False, CONTENT)


@pytest.mark.parametrize("form", ["folder", "glob", "direct"])
def test_each_is_listed_and_is_one_failure(odd: Path, form: str) -> None:
    given = {"folder": odd.parent, "glob": odd.parent / "*.jpg", "direct": odd}[form]
    batches = soon(lambda: list(list_images([str(given)])))
    uris = [uri for batch in batches for uri in batch["uri"].to_pylist()]
    assert uris == [str(odd)] if form == "direct" else [str(odd.parent / "a.jpg"), str(odd)]
    allowed = Allowed(("file",), ("/",))
    failure = soon(lambda: fetch(ImageInput(str(odd)), 5.0, allowed, Filters()))
    assert isinstance(failure, Failure)
    assert (failure.stage, failure.error_type, failure.retry_when) == ("fetch", "NotAFile", CONTENT)


@pytest.mark.parametrize("name", ["list.txt", "list.csv", "list.parquet", "manifest.json", "images.tar"])
def test_lists_and_tars(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises((StorageError, ListError, ValueError), match="is a FIFO"):
        soon(lambda: list(list_images([str(tmp_path / name)])))


def test_a_list_that_becomes_a_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "list.txt")
    with pytest.raises(StorageError, match="is a FIFO"):
        soon(lambda: list(read_list(str(tmp_path / "list.txt"))))


@pytest.mark.parametrize("target", ["missing.jpg", "x.jpg"], ids=["nowhere", "itself"])
@pytest.mark.parametrize("form", ["", "*.jpg"], ids=["folder", "glob"])
def test_broken_links_are_listed_and_fail_until_they_are_mended(tmp_path: Path, target: str, form: str) -> None:
    (tmp_path / "x.jpg").symlink_to(target)
    [batch] = list_images([str(tmp_path / form)])
    assert batch["uri"].to_pylist() == [str(tmp_path / "x.jpg")]
    with pytest.raises(StorageError) as caught:
        storage_for(str(tmp_path)).read(str(tmp_path / "x.jpg"))
    assert caught.value.retry_when == LATER
    with pytest.raises(InputError):  # given by name
        list(list_images([str(tmp_path / "x.jpg")]))
