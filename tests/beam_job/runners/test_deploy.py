"""The image, the template and the nightly request name versions, files and options that there are.

Nothing is built here: hadolint reads the Dockerfile, and pins are held against what `setup.py` asks for.
"""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from beam_job.cli.flex_template import NOT_FOR_TEMPLATES, flex_template
from beam_job.cli.options import option_names, parse
from beam_job.runners.machines import GPUS
from tests.conftest import ROOT, has_package

DEPLOY = ROOT / "deploy"
PIN = re.compile(r"([A-Za-z0-9._-]+)==(\S+)")
BEAM_S_OWN = {"sdk_container_image"}  # parameters of the template that are no options of the job
ON_DATAFLOW = ["--runner=DataflowRunner", "--project=p", "--region=r", "--temp_location=gs://b/temp"]


def pins(name: str) -> dict[str, str]:
    lines = [line for line in (DEPLOY / name).read_text().splitlines() if line and not line.startswith("#")]
    matches = [PIN.fullmatch(line) for line in lines]
    assert all(matches), "each line pins one version"
    found = [(canonicalize_name(match[1]), match[2]) for match in matches if match]
    assert len(dict(found)) == len(found), "a package is pinned twice"
    return dict(found)


def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text()


def asked_for(monkeypatch: pytest.MonkeyPatch) -> list[Requirement]:
    """By setup.py, with the extra that Dataflow needs."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr("setuptools.setup", lambda **given: asked.update(given))
    runpy.run_path(str(ROOT / "setup.py"))
    return [Requirement(text) for text in [*asked["install_requires"], *asked["extras_require"]["dataflow"]]]


def template() -> dict[str, dict[str, Any]]:
    """The template's parameters by name."""
    parameters = json.loads((DEPLOY / "flex_template.json").read_text())["parameters"]
    by_name = {each["name"]: each for each in parameters}
    assert len(by_name) == len(parameters)
    return by_name


def nightly() -> dict[str, Any]:
    text = (DEPLOY / "nightly.json").read_text()
    for name, value in {"PROJECT": "my-project", "REGION": "us-central1", "BUCKET": "my-bucket"}.items():
        text = text.replace(name, value)
    assert not re.search(r"\b[A-Z]{3,}\b", text), "a name to fill in that the README does not"
    return json.loads(text)


def test_the_dockerfile_has_nothing_to_complain_of() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")
    if not hadolint:
        pytest.skip("needs hadolint")
    done = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_has_what_setup_py_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = pins("requirements.txt")
    asked = asked_for(monkeypatch)
    assert len(asked) > 10
    for requirement in asked:
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not pinned"
        assert requirement.specifier.contains(version), f"{requirement}, but {version} is pinned"


def test_harness_and_job_are_of_one_beam_and_one_python(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", dockerfile(), re.MULTILINE))
    assert arguments["BEAM"] == pins("requirements.txt")["apache-beam"]
    template_s = re.search(r"dataflow-templates-base/python(\d)(\d+)-template", dockerfile())
    assert template_s is not None
    assert arguments["PYTHON"] == ".".join(template_s.groups())
    assert arguments["DEVICE"] in re.findall(r"^FROM .* AS (\w+)$", dockerfile(), re.MULTILINE)


def test_the_gpu_image_adds_and_changes_nothing() -> None:
    gpu = pins("requirements-gpu.txt")
    assert not gpu.keys() & pins("requirements.txt").keys()
    assert all(name.startswith("nvidia-") for name in gpu)


def test_cuda_is_what_tensorflow_asks_for() -> None:
    from importlib.metadata import requires, version

    pinned = pins("requirements-gpu.txt")
    if version("tensorflow") != pins("requirements.txt")["tensorflow"]:
        pytest.skip("another TensorFlow is installed")
    asked = [Requirement(text) for text in requires("tensorflow") or []]
    cuda = [each for each in asked if each.marker and each.marker.evaluate({"extra": "and-cuda"})]
    cuda = [each for each in cuda if each.name.startswith("nvidia-")]
    assert {canonicalize_name(each.name) for each in cuda} == pinned.keys()
    for requirement in cuda:
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_what_is_copied_is_there_and_not_ignored() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", dockerfile(), re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert "model" in copied
    for source in copied:
        assert (ROOT / source).exists(), f"{source} is copied, and there is none"
        assert source.split("/")[0] in sent, f"{source} is copied, and .dockerignore leaves it out"


def test_the_build_names_stages_and_arguments_of_the_dockerfile() -> None:
    build = yaml.safe_load((DEPLOY / "cloudbuild.yaml").read_text())
    stages = re.findall(r"^FROM .* AS ([\w-]+)$", dockerfile(), re.MULTILINE)
    tags = []
    for step in build["steps"]:
        options = dict(each.removeprefix("--").split("=", 1) for each in step["args"] if each.startswith("--"))
        assert options["target"] in stages
        assert options["build-arg"] in ("DEVICE=${_DEVICE}", "DEVICE=cpu")
        tags.append(options["tag"])
    assert tags == build["images"]
    assert build["substitutions"]["_DEVICE"] in stages


def test_the_template_declares_every_option() -> None:
    """Dataflow refuses parameters that are not declared."""
    assert json.loads((DEPLOY / "flex_template.json").read_text()) == flex_template(), (
        "run python -m beam_job.cli.flex_template > deploy/flex_template.json"
    )
    flags = runpy.run_path(str(DEPLOY / "launch.py"))["FLAGS"]
    parameters = template()
    options = {name.removeprefix("--") for name in option_names() if name.startswith("--")}
    assert options - set(NOT_FOR_TEMPLATES) == parameters.keys() - BEAM_S_OWN
    assert {name for name, each in parameters.items() if not each.get("isOptional")} == {
        "input",
        "output",
        *BEAM_S_OWN,
    }
    assert {name for name, each in parameters.items() if each.get("paramType") == "BOOLEAN"} <= set(flags)
    assert [option["value"] for option in parameters["gpu"]["enumOptions"]] == list(GPUS)
    for name in (
        "captioner",
        "engine",
        "beam_width",
        "min_bytes",
        "max_bytes",
        "fetch_timeout",
        "max_pixels",
        "prompt",
    ):
        assert name in parameters
    for each in parameters.values():
        assert each["label"]
        assert each["helpText"]


def test_parameters_have_the_types_of_the_options() -> None:
    kinds = {name: each.get("paramType") for name, each in template().items()}
    assert (kinds["decoding"], kinds["retry"], kinds["engine"], kinds["gpu"]) == ("ENUM",) * 4
    assert (kinds["beam_width"], kinds["min_score"], kinds["sample"], kinds["seed"]) == ("NUMBER",) * 4
    assert (kinds["recaption"], kinds["require_gpu"], kinds["no_report"]) == ("BOOLEAN",) * 3
    assert (kinds["include"], kinds["batch_size"]) == (None, None)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("input", "gs://b/photos/", "photos"),
        ("output", "gs://b/captions", "/captions"),
        ("sdk_container_image", "us-docker.pkg.dev/p/r/captions:1", "captions"),
        ("gpu", "nvidia-l4", "nvidia-l5"),
        ("sample", "0.25", "2"),
        ("limit", "100", "0"),
        ("retry", "all", "some"),
        ("recaption", "true", "yes"),
        ("decoding", "greedy", "best"),
        ("min_score", "-1.25", "low"),
        ("precision", "float16", "int8"),
        ("max_failure_ratio", "0.1", "10"),
        ("engine", "litert", "torch"),
        ("fetch_timeout", "2.5", "long"),
        ("max_bytes", "1000000", "1MB"),
        ("beam_width", "3", "0"),
        ("seed", "0", "-1"),
        ("batch_size", "auto", "many"),
    ],
)
def test_the_template_refuses_what_the_command_would(name: str, good: str, bad: str) -> None:
    [regex] = template()[name]["regexes"]
    assert re.fullmatch(regex, good)
    assert not re.fullmatch(regex, bad)


@pytest.mark.skipif(
    not (has_package("google.cloud") and has_package("google.cloud.dataflow_v1beta3")),
    reason="needs the extra dataflow",
)
def test_google_s_own_types_take_the_template_and_the_request() -> None:
    """Names that they do not know are refused."""
    from google.cloud.dataflow_v1beta3.types import LaunchFlexTemplateRequest, TemplateMetadata

    metadata = TemplateMetadata.from_json((DEPLOY / "flex_template.json").read_text())
    assert len(metadata.parameters) == len(template())
    request = LaunchFlexTemplateRequest.from_json(json.dumps(nightly()))
    assert request.launch_parameter.environment.max_workers == 10


def test_the_nightly_request_gives_what_the_template_takes() -> None:
    asked = nightly()["launchParameter"]["parameters"]
    parameters = template()
    assert asked.keys() <= parameters.keys()
    assert {name for name, each in parameters.items() if not each.get("isOptional")} <= asked.keys()
    for name, value in asked.items():
        for regex in parameters[name].get("regexes", []):
            assert re.fullmatch(regex, value), (name, value)
    options = [f"--{name}={value}" for name, value in asked.items()]
    config, beam_s = parse([*options, *ON_DATAFLOW])
    assert (config.inputs, config.output, config.gpu) == (
        ("gs://my-bucket/photos/",),
        "gs://my-bucket/captions",
        "nvidia-l4",
    )
    assert beam_s == [f"--sdk_container_image={asked['sdk_container_image']}", *ON_DATAFLOW]
