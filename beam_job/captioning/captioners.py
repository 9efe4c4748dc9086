"""The captioner that the options name: a bundle's, or one that a function of the user's makes."""

from __future__ import annotations

import importlib
from pathlib import Path

from beam_job.captioning.bundles import local_bundle
from beam_job.config import JobConfig
from model import BundleError, ImageCaptioner, check_bundle


class CaptionerError(ValueError):
    """--captioner names nothing that makes a captioner; the message says what is wrong."""


def model_version(config: JobConfig) -> str:
    """The version of the captioner, before the run.

    Raises:
      BundleError, StorageError: there is no whole bundle.
      CaptionerError: --captioner does not make a captioner.
    """
    return make_captioner(config).version if config.captioner else check_bundle(local_bundle(config.model))


def bundle_of_run(config: JobConfig, version: str) -> Path:
    """The bundle, in a worker: the very one that the run began with.

    Raises:
      BundleError: there is no whole one, or another by now.
    """
    folder = local_bundle(config.model)
    found = check_bundle(folder)
    if found != version:
        place = f"the model at {config.model}" if config.model else "the model that ships"
        raise BundleError(
            f"{place} has changed since the run began: it was {version} and is {found}; "
            "the same command starts a run with the new one"
        )
    return folder


def captioner_of_run(config: JobConfig, version: str) -> ImageCaptioner:
    """What --captioner makes, loaded, in a worker.

    Raises:
      CaptionerError: as `make_captioner`, or its version is not the one that the run began with.
    """
    captioner = make_captioner(config)
    if captioner.version != version:
        raise CaptionerError(
            f"--captioner={config.captioner}: the run began with version {version}, "
            f"and a worker has {captioner.version}"
        )
    if load := getattr(captioner, "load", None):
        load()
    return captioner


def make_captioner(config: JobConfig) -> ImageCaptioner:
    """What the function that --captioner names returns, looked at but not loaded.

    Raises:
      CaptionerError: there is no such function, it fails, or what it returns is no `ImageCaptioner`.
    """
    option = f"--captioner={config.captioner}"
    module, _, name = (config.captioner or "").partition(":")
    try:
        found = importlib.import_module(module)
    except Exception as error:  # of whatever the module does when it is imported
        missing = isinstance(error, ModuleNotFoundError) and module.startswith(error.name or module)
        hint = "; the folder that it lies in must be on PYTHONPATH" if missing else ""
        raise CaptionerError(f"{option}: {module} cannot be imported: {_line(error)}{hint}") from error
    factory = getattr(found, name, None)
    if not callable(factory):
        raise CaptionerError(f"{option}: {module} has no function {name}")
    try:
        captioner = factory(config.model, config.decoding)
    except Exception as error:
        raise CaptionerError(f"{option}: {name}(model, decoding) failed: {_line(error)}") from error
    _check(captioner, option)
    return captioner


def _check(captioner: object, option: str) -> None:
    version, size = getattr(captioner, "version", None), getattr(captioner, "input_size", None)
    if not isinstance(version, str) or not version:
        raise CaptionerError(f"{option}: the captioner's version must be text, not {version!r:.80}")
    if not isinstance(size, int) or size < 1:
        raise CaptionerError(f"{option}: the captioner's input_size must be a whole number from 1, not {size!r:.80}")
    if not callable(getattr(captioner, "caption", None)):
        raise CaptionerError(f"{option}: the captioner has no method caption")


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
