"""`import beam_job`: what it offers, and that it waits for nothing large."""

from __future__ import annotations

import subprocess
import sys

import pytest

import beam_job

_LARGE = ("apache_beam", "tensorflow", "keras", "pyarrow", "google.cloud.storage")


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("import beam_job", id="the package"),
        pytest.param(
            "from beam_job import JobConfig, Filters, Decoding, Endpoint, Prompt, __version__", id="the configuration"
        ),
    ],
)
def test_importing_it_imports_nothing_large(statement: str) -> None:
    program = f"import sys\n{statement}\nprint([name for name in {_LARGE} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", beam_job.__all__)
def test_every_exported_name_exists(name: str) -> None:
    assert getattr(beam_job, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'beam_job' has no attribute 'run'"):
        beam_job.run  # noqa: B018
