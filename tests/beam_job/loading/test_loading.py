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
import pytest
from PIL import Image

from beam_job.inputs.filters import Filters
from beam_job.loading.byte_budget import ByteBudget
from beam_job.loading.decode_pool import DecodePool
from beam_job.loading.images import FetchedImage
from beam_job.loading.load_config import LoadConfig
from beam_job.loading.load_worker import GROUP, shared_bytes
from beam_job.loading.loader import Loader, LoadEvent
from beam_job.loading.process_loader import ProcessLoader
from beam_job.loading.thread_loader import ThreadLoader
from beam_job.records import DecodedImage, Failure, ImageInput
from beam_job.storage import LATER, Allowed, CredentialsError
from model import load_image
from tests.images import encode, halves

SIZE = 8

# A process that does what the name of its image says.
HOOKED = """
import os, signal, threading
from beam_job.loading import load_worker, thread_loader
from beam_job.records import ImageInput
from beam_job.storage import CredentialsError

def fetch(image, *limits, really=thread_loader.fetch):
    name = os.path.basename(image.uri)
    if name.startswith("abort"):
        os.abort()
    mark = image.uri + ".mark"
    if name.startswith("stop") and not (name.startswith("stop once") and os.path.exists(mark)):
        open(mark, "w").close()
        os.kill(os.getpid(), signal.SIGSTOP)
    if name.startswith("hang"):
        threading.Event().wait()
    if name.startswith("logged out"):
        raise CredentialsError("nobody is logged in")
    if name.startswith("pid"):
        open(image.uri + ".is", "w").write(str(os.getpid()))
    return really(image, *limits)

thread_loader.fetch = fetch
load_worker.main()
"""


class Drawn:
    """What a thread has drawn from a loader, by the key of each image."""

    def __init__(self, loader: Loader) -> None:
        self.fetched: dict[Any, int] = {}
        self.done: dict[Any, LoadEvent] = {}
        self.error: BaseException | None = None
        self._changed = threading.Condition()
        self._loader = loader
        self._thread = threading.Thread(target=self._draw, daemon=True)
        self._thread.start()

    def _draw(self) -> None:
        try:
            while events := self._loader.get():
                with self._changed:
                    for event in events:
                        self._record(event)
                    self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self.error = error
                self._changed.notify_all()

    def _record(self, event: LoadEvent) -> None:
        assert event.key not in self.done
        if event.outcome is None:
            assert event.key not in self.fetched
            assert event.file_bytes is not None
            self.fetched[event.key] = event.file_bytes
        else:
            self.done[event.key] = event

    def wait_for(self, what: Any) -> None:
        with self._changed:
            assert self._changed.wait_for(what, timeout=60)

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


def config_for(folder: Path, fetch_threads: int = 4, decode_threads: int = 2, **changes: Any) -> LoadConfig:
    allowed = Allowed(("file",), (str(folder),))
    filters = Filters(max_bytes=10_000)
    config = LoadConfig(SIZE, fetch_threads, decode_threads, 10**6, 2**28, 60.0, allowed, filters)
    return dataclasses.replace(config, **changes)


def file(folder: Path, name: str, content: bytes | None = None) -> ImageInput:
    path = folder / name
    path.write_bytes(encode(halves("red", "blue"), "JPEG") if content is None else content)
    return ImageInput(str(path))


def load_all(loader: Loader, images: Sequence[ImageInput]) -> Drawn:
    drawn = Drawn(loader)
    for image in images:
        loader.put(image.uri, [image])
    loader.close()
    drawn.join()
    return drawn


def comparable(event: LoadEvent) -> object:
    """What must be the same whichever loader is used."""
    outcome = event.outcome
    if isinstance(outcome, DecodedImage):
        return (
            event.file_bytes,
            outcome.input,
            outcome.pixels.tolist(),
            outcome.width,
            outcome.height,
            outcome.object_version,
        )
    return event.file_bytes, dataclasses.replace(outcome, failed_at=None)  # type: ignore[arg-type,type-var]


def test_threads_and_processes_load_the_same(tmp_path: Path) -> None:
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
    threads = load_all(ThreadLoader(config_for(tmp_path)), images)
    processes = load_all(ProcessLoader(config_for(tmp_path)), images)
    assert threads.error is processes.error is None
    assert threads.fetched == processes.fetched
    assert len(threads.done) == len(images)
    for uri, event in threads.done.items():
        assert comparable(event) == comparable(processes.done[uri])
    first = processes.done[images[0].uri].outcome
    assert isinstance(first, DecodedImage)
    np.testing.assert_array_equal(first.pixels, load_image(Path(images[0].uri).read_bytes(), SIZE).pixels)
    stages = [processes.done[image.uri].outcome for image in images[-5:]]
    assert [(failure.stage, failure.error_type) for failure in stages] == [
        ("decode", "ImageError"),
        ("fetch", "TooLarge"),
        ("fetch", "FileNotFoundError"),
        ("list", "NotAllowed"),
        ("list", "UnknownSchemeError"),
    ]


def test_images_that_kill_their_process_fail_and_all_others_do_not(tmp_path: Path) -> None:
    names = [*(f"{number}.jpg" for number in range(2 * GROUP)), "abort 1.jpg", "abort 2.jpg", "last.jpg"]
    drawn = load_all(ProcessLoader(config_for(tmp_path), HOOKED), [file(tmp_path, name) for name in names])
    assert drawn.error is None
    failures = [event.outcome for event in drawn.done.values() if isinstance(event.outcome, Failure)]
    assert len(drawn.done) == len(names)
    assert sorted(Path(failure.uri).name for failure in failures) == ["abort 1.jpg", "abort 2.jpg"]
    assert {(failure.stage, failure.error_type, failure.transient) for failure in failures} == {
        ("decode", "LoadProcessError", True)
    }
    assert {failure.error_message for failure in failures} == {"the process that loaded it died (signal 6, SIGABRT)"}


def test_a_process_that_the_system_kills_costs_no_image(tmp_path: Path) -> None:
    loader = ProcessLoader(config_for(tmp_path, decode_threads=1), HOOKED)
    drawn = Drawn(loader)
    for round_ in range(2):
        image = file(tmp_path, f"pid {round_}.jpg")
        loader.put(image.uri, [image])
        drawn.wait_for(lambda count=round_ + 1: len(drawn.done) == count)
        os.kill(int(Path(image.uri + ".is").read_text()), signal.SIGKILL)
    loader.close()
    assert all(isinstance(event.outcome, DecodedImage) for event in drawn.done.values())


def test_a_fetch_that_hangs_holds_no_other_image_up(tmp_path: Path) -> None:
    loader = ProcessLoader(config_for(tmp_path, fetch_threads=2, decode_threads=1), HOOKED)
    drawn = Drawn(loader)
    hanging = file(tmp_path, "hang.jpg")
    loader.put(hanging.uri, [hanging])
    for number in range(3):
        image = file(tmp_path, f"{number}.jpg")
        loader.put(image.uri, [image])
        drawn.wait_for(lambda uri=image.uri: uri in drawn.done)
    loader.stop()
    closing = threading.Thread(target=loader.close, daemon=True)
    closing.start()
    closing.join(timeout=60)
    assert not closing.is_alive()
    assert hanging.uri not in drawn.done


def test_who_is_not_logged_in_hears_it_from_processes_too(tmp_path: Path) -> None:
    loader = ProcessLoader(config_for(tmp_path), HOOKED)
    drawn = Drawn(loader)
    image = file(tmp_path, "logged out.jpg")
    loader.put(image.uri, [image])
    drawn.wait_for(lambda: drawn.error)
    loader.stop()
    loader.close()
    assert isinstance(drawn.error, CredentialsError)
    assert str(drawn.error) == "nobody is logged in"


def test_an_environment_without_processes_is_reported(tmp_path: Path) -> None:
    drawn = load_all(ProcessLoader(config_for(tmp_path), "import no_such_module"), [file(tmp_path, "1.jpg")])
    assert str(drawn.error) == (
        "no process for loading images could be started: ModuleNotFoundError: No module named 'no_such_module'"
    )


def test_a_process_starts_without_beam_and_tensorflow(tmp_path: Path) -> None:
    program = (
        "import sys; from beam_job.loading import load_worker; "
        "assert not sys.modules.keys() & {'apache_beam', 'tensorflow', 'keras'}; load_worker.main()"
    )
    drawn = load_all(ProcessLoader(config_for(tmp_path), program), [file(tmp_path, "1.jpg")])
    assert drawn.error is None
    assert len(drawn.done) == 1


def test_pictures_keep_their_shape_and_share_memory_of_some_bytes(tmp_path: Path) -> None:
    """A process has room for one image of 2,048 pixels a side at a time, or for five of 1,000."""
    shapes = [(3000, 1500), (40, 20), (1500, 3000), (2100, 10), (500, 500)]
    images = []
    for number, shape in enumerate(shapes * 4):
        picture = Image.new("RGB", shape, (number, 100, 200))
        kind = "PNG" if number % 3 else "JPEG"
        images.append(file(tmp_path, str(number), encode(picture, kind)))
    for side in (2048, 1000):
        config = config_for(tmp_path, max_pixels=10**7, input_size=side, in_proportion=True)
        assert 3 * side**2 <= shared_bytes(config) <= 16 * 2**20
        config = dataclasses.replace(config, filters=Filters())
        threads, processes = load_all(ThreadLoader(config), images), load_all(ProcessLoader(config), images)
        assert threads.error is processes.error is None
        for image, (width, height) in zip(images, shapes * 4, strict=True):
            found, other = threads.done[image.uri].outcome, processes.done[image.uri].outcome
            assert isinstance(found, DecodedImage)
            assert isinstance(other, DecodedImage)
            scale = min(1.0, side / max(width, height))
            assert found.pixels.shape == (round(height * scale), round(width * scale), 3)
            assert (found.width, found.height) == (width, height)
            np.testing.assert_array_equal(found.pixels, other.pixels)


@pytest.mark.parametrize("stops", [pytest.param("stop", id="alone"), pytest.param("stop once", id="by accident")])
def test_a_process_that_does_not_answer_is_replaced(tmp_path: Path, stops: str) -> None:
    """A stopped process is alive, so that no end of its connection tells the parent anything."""
    names = [*(f"{number}.jpg" for number in range(3)), f"{stops}.jpg", "last.jpg"]
    images = [file(tmp_path, name) for name in names]
    drawn = load_all(ProcessLoader(config_for(tmp_path, decode_threads=1), HOOKED, answer_seconds=2.0), images)
    assert drawn.error is None
    assert len(drawn.done) == len(names)
    failures = [event.outcome for event in drawn.done.values() if isinstance(event.outcome, Failure)]
    if stops == "stop once":
        assert failures == []
        return
    [failure] = failures
    assert (Path(failure.uri).name, failure.stage, failure.retry_when) == ("stop.jpg", "decode", LATER)
    assert failure.error_message == "the process that loaded it did not answer for 2 s"


class Gauge:
    """Stands in for `fetch` and `decode`: counts the bytes of files that are held at the same time."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self.sizes = sizes
        self.held = self.most = 0
        self._lock = threading.Lock()

    def fetch(self, image: ImageInput, timeout: float, allowed: Allowed, filters: Filters, on_size: Any) -> Any:
        """A file that grows in four steps, as one that is unpacked does."""
        held = 0
        try:
            for size in [self.sizes[image.uri] * quarter // 4 for quarter in range(1, 5)]:
                if on_size:
                    on_size(size)
                self._hold(size - held)
                held = size
        except BaseException:
            self._hold(-held)
            raise
        return FetchedImage(image, bytes(held), "v1")

    def decode(self, fetched: FetchedImage, pool: DecodePool, columns: Sequence[str]) -> Failure:
        self._hold(-len(fetched.data))
        return Failure(fetched.input.uri, "decode", "ImageError", "not a picture", False)

    def _hold(self, size: int) -> None:
        with self._lock:
            self.held += size
            self.most = max(self.most, self.held)


@pytest.mark.parametrize("known", [pytest.param(True, id="listed sizes"), pytest.param(False, id="unknown sizes")])
def test_bytes_in_flight_are_bounded_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    """Whatever a list says of sizes: small files beside each other, one larger than the whole budget alone."""
    budget, giant = 10_000_000, 30_000_000
    sizes = {f"{n}.jpg": size for n, size in enumerate([1_000] * 40 + [6_000_000] * 8 + [giant] * 3 + [10] * 40)}
    gauge = Gauge(sizes)
    monkeypatch.setattr("beam_job.loading.thread_loader.fetch", gauge.fetch)
    monkeypatch.setattr("beam_job.loading.thread_loader.decode", gauge.decode)
    config = config_for(tmp_path, fetch_threads=8, decode_threads=2, in_flight_bytes=budget, filters=Filters())
    images = [ImageInput(uri, size=size if known else None) for uri, size in sizes.items()]
    drawn = load_all(ThreadLoader(config), images)
    assert drawn.error is None
    assert len(drawn.done) == len(images)
    assert {event.file_bytes for event in drawn.done.values()} == set(sizes.values())
    assert gauge.most == giant
    assert gauge.held == 0


def test_the_byte_budget_waits_for_room_and_lets_a_giant_pass_alone() -> None:
    budget = ByteBudget(100)
    budget.acquire(60)
    passed: list[int] = []

    def acquire(size: int) -> threading.Thread:
        thread = threading.Thread(target=lambda: (budget.acquire(size), passed.append(size)), daemon=True)
        thread.start()
        return thread

    acquire(40).join(timeout=60)
    giant = acquire(1000)
    giant.join(timeout=0.2)
    assert passed == [40]
    assert not budget.try_acquire(1)
    budget.release(60)
    budget.release(40)
    giant.join(timeout=60)
    assert passed == [40, 1000]
