"""Opens the captioner that the options name: a bundle, a named one of `beam_job.captioners`, or the user's function."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

from beam_job.captioning.bundles import local_bundle
from beam_job.captioning.user_code import no_exit
from beam_job.config import NAMED_CAPTIONERS, JobConfig
from model import BundleError, CaptionerError, ImageCaptioner, PictureCaptioner, check_bundle

AnyCaptioner = ImageCaptioner | PictureCaptioner


def model_version(config: JobConfig) -> str:
    """The version of the captioner, before the run.

    Raises:
      BundleError, StorageError: there is no complete bundle.
      CaptionerError: --captioner does not make a captioner.
    """
    return _make_captioner(config)[1] if config.captioner else check_bundle(local_bundle(config.model))


def check_captioner(config: JobConfig) -> None:
    """Lets the captioner look whether it works, before the run, where it has a method `check`.

    Raises:
      CaptionerError: it does not.
    """
    if config.captioner:
        captioner, _ = _make_captioner(config)
        if check := getattr(captioner, "check", None):
            with _user_code(f"--captioner={config.captioner}: check() failed"):
                check()


def bundle_of_run(config: JobConfig, version: str) -> Path:
    """The bundle that the run started with, in a worker.

    Raises:
      BundleError: there is no complete bundle, or it has changed since.
    """
    folder = local_bundle(config.model)
    found = check_bundle(folder)
    if found != version:
        place = f"the model at {config.model}" if config.model else "the bundled model"
        raise BundleError(
            f"{place} has changed since the run began: it was {version} and is {found}; "
            "repeat the command to start a run with the new one"
        )
    return folder


def takes_pictures(captioner: Any) -> TypeGuard[PictureCaptioner]:
    """Whether it is called with pictures in their own aspect ratio; otherwise with arrays of squares."""
    return callable(getattr(captioner, "caption_pictures", None))


def side_of(captioner: Any) -> int:
    """The longest side of its pictures, in pixels."""
    return captioner.max_side if takes_pictures(captioner) else captioner.input_size


def captioner_of_run(config: JobConfig, version: str) -> AnyCaptioner:
    """The captioner of --captioner, loaded, in a worker.

    Raises:
      CaptionerError: it cannot be made or loaded, or has another version than the one that the run started with.
    """
    captioner, found = _make_captioner(config, version)
    if found != version:
        raise CaptionerError(
            f"--captioner={config.captioner}: the run started with version {version}, and a worker has {found}"
        )
    if load := getattr(captioner, "load", None):
        with _user_code(f"--captioner={config.captioner}: load() failed"):
            load()
    return captioner


def _make_captioner(config: JobConfig, version: str | None = None) -> tuple[AnyCaptioner, str]:
    """What the function that --captioner names returns, checked but not loaded, and its version.

    Args:
      config: the job.
      version: with which the run started; None before the run.

    Raises:
      CaptionerError: there is no such function, it fails, or what it returns is no captioner.
    """
    option = f"--captioner={config.captioner}"
    module, _, name = NAMED_CAPTIONERS.get(config.captioner or "", config.captioner or "").partition(":")
    with _user_code(f"{option}: {module} cannot be imported", module):
        found = importlib.import_module(module)
    factory = getattr(found, name, None)
    if not callable(factory):
        raise CaptionerError(f"{option}: {module} has no function {name}")
    if config.is_named:
        with _user_code(f"{option}: failed"):
            captioner = factory(config, version)
    else:
        with _user_code(f"{option}: {name}(model, decoding) failed"):
            captioner = factory(config.model, config.decoding)
    return captioner, _checked_version(captioner, option, bool(config.prompts))


def _checked_version(captioner: Any, option: str, with_prompts: bool) -> str:
    takes = callable(getattr(captioner, "caption_pictures", None))
    name = "max_side" if takes else "input_size"
    with _user_code(f"{option}: the captioner's version or {name} failed"):
        version, size = getattr(captioner, "version", None), getattr(captioner, name, None)
    if not isinstance(version, str) or not version:
        raise CaptionerError(f"{option}: the captioner's version must be text, not {version!r:.80}")
    if not isinstance(size, int) or size < 1:
        raise CaptionerError(f"{option}: the captioner's {name} must be a whole number from 1, not {size!r:.80}")
    if not takes and not callable(getattr(captioner, "caption", None)):
        raise CaptionerError(f"{option}: the captioner has neither a method caption nor caption_pictures")
    if with_prompts and not takes:
        raise CaptionerError(f"{option}: the captioner takes no --prompt: it has no method caption_pictures")
    return version


@contextlib.contextmanager
def _user_code(what: str, module: str = "") -> Iterator[None]:
    """Turns any error of the user's code into a CaptionerError; leaving the process, too."""
    try:
        with no_exit():
            yield
    except CaptionerError:  # a message of its own
        raise
    except (Exception, SystemExit) as error:
        missing = isinstance(error, ModuleNotFoundError) and module.startswith(error.name or module)
        hint = "; its folder must be on PYTHONPATH" if module and missing else ""
        reason = f"it called exit({error.code!r})" if isinstance(error, SystemExit) else _line(error)
        raise CaptionerError(f"{what}: {reason}{hint}") from error


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
