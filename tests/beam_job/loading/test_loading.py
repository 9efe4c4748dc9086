"""Loaders: the same images from threads and from processes, and what becomes of those that break a process."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beam_job.inputs.filters import Filters
from beam_job.loading.loader import LoadConfig, Loaded, Loader, ThreadLoader
from beam_job.loading.process_loader import GROUP, ProcessLoader
from beam_job.records import DecodedImage, Failure, ImageInput
from beam_job.storage import Allowed, CredentialsError
from model import load_image
from tests.images import encode, halves

SIZE = 8

# A process that does what the name of its image says.
HOOKED = """
import os, threading
from beam_job.loading import process_loader as load_processes
from beam_job.loading import loader as loading
from beam_job.records import ImageInput
from beam_job.storage import CredentialsError

def fetch(image, *limits, really=loading.fetch):
    name = os.path.basename(image.uri)
    if name.startswith("abort"):
        os.abort()
    if name.startswith("hang"):
        threading.Event().wait()
    if name.startswith("logged out"):
        raise CredentialsError("nobody is logged in")
    if name.startswith("pid"):
        open(image.uri + ".is", "w").write(str(os.getpid()))
    return really(image, *limits)

loading.fetch = fetch
load_processes.main()
"""


class Heard:
    """A receiver that keeps what it is told."""

    def __init__(self) -> None:
        self.sizes: dict[Any, int] = {}
        self.images: dict[Any, Loaded] = {}
        self.error: BaseException | None = None
        self.changed = threading.Condition()

    def fetched(self, sizes: Sequence[tuple[Any, int]]) -> None:
        self.sizes.update(sizes)

    def loaded(self, images: Sequence[tuple[Any, Loaded]]) -> None:
        with self.changed:
            for key, loaded in images:
                assert key not in self.images
                self.images[key] = loaded
            self.changed.notify_all()

    def fail(self, error: BaseException) -> None:
        with self.changed:
            self.error = error
            self.changed.notify_all()

    def wait_for(self, what: Any) -> None:
        with self.changed:
            assert self.changed.wait_for(what, timeout=60)


def config_for(folder: Path, fetch_threads: int = 4, decode_threads: int = 2) -> LoadConfig:
    allowed = Allowed(("file",), (str(folder),))
    return LoadConfig(SIZE, fetch_threads, decode_threads, 10**6, 60.0, allowed, Filters(max_bytes=10_000))


def file(folder: Path, name: str, content: bytes | None = None) -> ImageInput:
    path = folder / name
    path.write_bytes(encode(halves("red", "blue"), "JPEG") if content is None else content)
    return ImageInput(str(path))


def load_all(loader: Loader, images: Sequence[ImageInput]) -> None:
    for image in images:
        loader.put(image.uri, image)
    loader.close()


def told(loaded: Loaded) -> object:
    """What must be the same whoever loads."""
    outcome = loaded.outcome
    if isinstance(outcome, DecodedImage):
        return (
            loaded.size,
            outcome.input,
            outcome.pixels.tolist(),
            outcome.width,
            outcome.height,
            outcome.object_version,
        )
    return loaded.size, dataclasses.replace(outcome, failed_at=None)  # type: ignore[arg-type]


def test_threads_and_processes_tell_the_same(tmp_path: Path) -> None:
    """Plain JPEGs, what is decoded apart, and failures of each stage; more than a group for each process."""
    images = [
        *(file(tmp_path, f"{n}.jpg", encode(halves("red", "blue").resize((20 + n, 30)), "JPEG")) for n in range(70)),
        *(file(tmp_path, f"{n}.png", encode(halves("red", "blue"), "PNG")) for n in range(3)),
        file(tmp_path, "text.jpg", b"no picture"),
        file(tmp_path, "large.jpg", bytes(10_001)),
        ImageInput(str(tmp_path / "missing.jpg")),
        ImageInput("/elsewhere/x.jpg"),
        ImageInput("ftp://host/x.jpg"),
    ]
    heard = Heard(), Heard()
    load_all(ThreadLoader(heard[0], config_for(tmp_path)), images)
    load_all(ProcessLoader(heard[1], config_for(tmp_path)), images)
    assert heard[0].error is heard[1].error is None
    assert heard[0].sizes == heard[1].sizes
    assert len(heard[0].images) == len(images)
    for uri, loaded in heard[0].images.items():
        assert told(loaded) == told(heard[1].images[uri])
    first = heard[1].images[images[0].uri].outcome
    np.testing.assert_array_equal(first.pixels, load_image(Path(images[0].uri).read_bytes(), SIZE).pixels)
    stages = [heard[1].images[image.uri].outcome for image in images[-5:]]
    assert [(failure.stage, failure.error_type) for failure in stages] == [
        ("decode", "ImageError"),
        ("fetch", "TooLarge"),
        ("fetch", "FileNotFoundError"),
        ("list", "NotAllowed"),
        ("list", "UnknownSchemeError"),
    ]


def test_images_that_kill_their_process_fail_and_all_others_do_not(tmp_path: Path) -> None:
    names = [*(f"{number}.jpg" for number in range(2 * GROUP)), "abort 1.jpg", "abort 2.jpg", "last.jpg"]
    heard = Heard()
    load_all(ProcessLoader(heard, config_for(tmp_path), HOOKED), [file(tmp_path, name) for name in names])
    assert heard.error is None
    failures = [one.outcome for one in heard.images.values() if isinstance(one.outcome, Failure)]
    assert len(heard.images) == len(names)
    assert sorted(Path(failure.uri).name for failure in failures) == ["abort 1.jpg", "abort 2.jpg"]
    assert {(failure.stage, failure.error_type, failure.transient) for failure in failures} == {
        ("decode", "LoadProcessError", True)
    }
    assert {failure.error_message for failure in failures} == {"the process that loaded it died (signal 6, SIGABRT)"}


def test_a_process_that_the_system_kills_costs_no_image(tmp_path: Path) -> None:
    heard = Heard()
    loader = ProcessLoader(heard, config_for(tmp_path, decode_threads=1), HOOKED)
    for round_ in range(2):
        image = file(tmp_path, f"pid {round_}.jpg")
        loader.put(image.uri, image)
        heard.wait_for(lambda count=round_ + 1: len(heard.images) == count)
        os.kill(int(Path(image.uri + ".is").read_text()), signal.SIGKILL)
    loader.close()
    assert all(isinstance(loaded.outcome, DecodedImage) for loaded in heard.images.values())


def test_a_fetch_that_hangs_holds_no_other_image_up(tmp_path: Path) -> None:
    heard = Heard()
    loader = ProcessLoader(heard, config_for(tmp_path, fetch_threads=2, decode_threads=1), HOOKED)
    hanging = file(tmp_path, "hang.jpg")
    loader.put(hanging.uri, hanging)
    for number in range(3):
        image = file(tmp_path, f"{number}.jpg")
        loader.put(image.uri, image)
        heard.wait_for(lambda uri=image.uri: uri in heard.images)
    loader.stop()
    closing = threading.Thread(target=loader.close, daemon=True)
    closing.start()
    closing.join(timeout=60)
    assert not closing.is_alive()
    assert hanging.uri not in heard.images


def test_who_is_not_logged_in_hears_it_from_processes_too(tmp_path: Path) -> None:
    heard = Heard()
    loader = ProcessLoader(heard, config_for(tmp_path), HOOKED)
    image = file(tmp_path, "logged out.jpg")
    loader.put(image.uri, image)
    heard.wait_for(lambda: heard.error)
    loader.stop()
    loader.close()
    assert isinstance(heard.error, CredentialsError)
    assert str(heard.error) == "nobody is logged in"


def test_an_environment_without_processes_is_told(tmp_path: Path) -> None:
    heard = Heard()
    load_all(ProcessLoader(heard, config_for(tmp_path), "import no_such_module"), [file(tmp_path, "1.jpg")])
    assert str(heard.error) == (
        "no process for loading images could be started: ModuleNotFoundError: No module named 'no_such_module'"
    )


def test_a_process_starts_without_beam_and_tensorflow(tmp_path: Path) -> None:
    heard = Heard()
    program = (
        "import sys; from beam_job.loading import process_loader as load_processes; "
        "assert not sys.modules.keys() & {'apache_beam', 'tensorflow', 'keras'}; load_processes.main()"
    )
    load_all(ProcessLoader(heard, config_for(tmp_path), program), [file(tmp_path, "1.jpg")])
    assert heard.error is None
    assert len(heard.images) == 1
