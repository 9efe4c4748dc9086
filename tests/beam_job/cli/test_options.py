"""The command line: what it accepts, what it refuses, and that neither waits for large imports."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys

import pytest

from beam_job.cli.options import UsageError, job_parser, option_names, parse
from beam_job.config import JobConfig
from beam_job.inputs.endpoint import Endpoint
from beam_job.inputs.options import CommandParser
from beam_job.runners.beam_options import RunnerError, beam_options, runs_here
from model import Decoding
from model.decoding_options import number, whole_number

REQUIRED = ["--input=photos", "--output=out"]


def test_defaults() -> None:
    config, rest = parse(REQUIRED)
    assert config == JobConfig(inputs=("photos",), output="out")
    assert (config.shard_size, config.max_failure_ratio, config.decoding) == (512, 0.5, Decoding("beam", beam_width=3))
    assert rest == []


def test_every_option_sets_its_field() -> None:
    arguments = {
        "--model": ("model", "folder"),
        "--min_score": ("min_score", -1.5),
        "--max_new_tokens": ("max_new_tokens", 53),
        "--max_side": ("max_side", 59),
        "--shard_size": ("shard_size", 3),
        "--batch_size": ("batch_size", 5),
        "--fetch_threads": ("fetch_threads", 7),
        "--decode_threads": ("decode_threads", 11),
        "--max_pixels": ("max_pixels", 50_000_000),
        "--workers": ("workers", 13),
        "--max_failure_ratio": ("max_failure_ratio", 0.25),
        "--verbose": ("verbose", True),
        "--no_report": ("no_report", True),
        "--report_samples": ("report_samples", 44),
        "--uri_column": ("uri_column", "url"),
        "--delimiter": ("delimiter", ";"),
        "--untrusted_lists": ("untrusted_lists", True),
        "--allow_private_addresses": ("allow_private_addresses", True),
        "--retry": ("retry", "all"),
        "--recaption": ("recaption", True),
        "--fetch_timeout": ("fetch_timeout", 1.5),
        "--batch_timeout": ("batch_timeout", 900.0),
        "--min_bytes": ("filters.min_bytes", 31),
        "--max_bytes": ("filters.max_bytes", 37),
        "--limit": ("filters.limit", 41),
        "--sample": ("filters.sample", 0.125),
        "--decoding": ("decoding.method", "sample"),
        "--num_captions": ("decoding.num_captions", 17),
        "--beam_width": ("decoding.beam_width", 19),
        "--length_penalty": ("decoding.length_penalty", 0.75),
        "--top_k": ("decoding.top_k", 23),
        "--temperature": ("decoding.temperature", 0.5),
        "--seed": ("decoding.seed", 29),
        "--no_repeat_ngram": ("decoding.no_repeat_ngram", 43),
        "--dedupe": ("dedupe", "content"),
        "--requests_per_host": ("requests_per_host", 47),
        "--user_agent": ("user_agent", "Museum/1.0"),
        "--respect_noai": ("respect_noai", True),
        "--billing_project": ("billing_project", "museum-1"),
        "--require_gpu": ("require_gpu", True),
        "--engine": ("engine", "tensorflow"),
        "--precision": ("precision", "float16"),
        "--gpu": ("gpu", "nvidia-l4"),
        "--estimate": ("estimate", True),
        "--worker_price": ("worker_price", 0.5),
    }
    given = [name if value is True else f"{name}={value}" for name, (_, value) in arguments.items()]
    config, _ = parse([*REQUIRED, *given])
    for attribute, value in arguments.values():
        found: object = config
        for part in attribute.split("."):
            found = getattr(found, part)
        assert found == value
    several = {"--input", "--include", "--exclude", "--carry_columns", "--image_columns"}
    several |= {"--allow_schemes", "--allow_root", "--allow_buckets"}
    several |= {"--captioner", "--prompt"}  # not together with an engine
    several |= {"--endpoint", *(f"--{field.name}" for field in dataclasses.fields(Endpoint) if field.name != "url")}
    assert set(arguments) == set(option_names()) - {"-h", "--help", "--version", "--output", "--log_format"} - several


def test_the_automatic_batch_size() -> None:
    assert parse(REQUIRED)[0].batch_size is parse([*REQUIRED, "--batch_size=auto"])[0].batch_size is None


def test_litert_has_one_precision() -> None:
    with pytest.raises(UsageError, match="--engine=litert computes in float32; leave out --precision=float16"):
        parse([*REQUIRED, "--engine=litert", "--precision=float16"])


def test_values_separated_by_commas_and_repeated() -> None:
    given = ["--include=*.jpg,*.png", "--include=a/**", "--exclude=b?.jpg", "--carry_columns=label,source"]
    config, _ = parse([*REQUIRED, *given])
    assert config.filters.include == ("*.jpg", "*.png", "a/**")
    assert config.filters.exclude == ("b?.jpg",)
    assert config.carry_columns == ("label", "source")


def test_what_lists_may_name() -> None:
    given = ["--allow_schemes=http,https", "--allow_root=/a,b", "--allow_root=c", "--allow_buckets=gs://x,y"]
    config, _ = parse([*REQUIRED, *given])
    assert config.allow_schemes == ("http", "https")
    assert config.allow_root == ("/a,b", "c")  # a comma may be part of a folder's name
    assert config.allow_buckets == ("gs://x", "y")


def test_several_inputs_and_options_for_beam() -> None:
    config, rest = parse([*REQUIRED, "--input=more", "--runner=DataflowRunner", "--region=r"])
    assert config.inputs == ("photos", "more")
    assert rest == ["--runner=DataflowRunner", "--region=r"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        pytest.param("--shard_size=0", "--shard_size must be a whole number from 1, not 0", id="shard size"),
        pytest.param("--max_pixels=0", "--max_pixels must be a whole number from 1, not 0", id="pixels"),
        pytest.param("--workers=-1", "--workers must be a whole number from 1, not -1", id="workers"),
        pytest.param("--max_failure_ratio=2", "--max_failure_ratio must be from 0 to 1, not 2.0", id="ratio"),
        pytest.param("--allow_schemes=htps", "--allow_schemes accepts file, .*, not 'htps'", id="scheme"),
        pytest.param("--allow_root=gs://b", "--allow_root must be a local folder, not 'gs://b'", id="root"),
        pytest.param("--allow_buckets=gs://b/x", "accepts whole buckets such as gs://b, not 'gs://b/x'", id="bucket"),
        pytest.param("--batch_size=0", "--batch_size must be a whole number from 1, not 0", id="batch size"),
        pytest.param("--captioner=mine", "or package.module:function, not 'mine'", id="captioner"),
        pytest.param("--captioner=a b:c", "or package.module:function, not 'a b:c'", id="no module's name"),
        pytest.param("--min_score=nan", "--min_score must be a finite number, at most 0, not nan", id="score"),
        pytest.param(
            "--gpu=nvidia-l5", "--gpu must be one of nvidia-.*, not 'nvidia-l5'; did you mean nvidia-l4", id="gpu"
        ),
        pytest.param(
            "--worker_price=-1", "--worker_price must be dollars per hour, a finite number from 0, not -1.0", id="price"
        ),
        pytest.param("--temperature=0", r"--temperature must be above 0 \(from 0.001 to 1000\), not 0.0", id="cold"),
        pytest.param("--min_score=0.5", "--min_score must be at most 0, as all scores are, not 0.5", id="high score"),
        pytest.param("--workers=100000", "--workers must be at most 1000, not 100000", id="many workers"),
        pytest.param("--beam_width=100000", "--beam_width must be at most 1000, not 100000", id="wide beam"),
        pytest.param("--limit=99999999999999999999", "--limit must be at most 9223372036854775807", id="large limit"),
        pytest.param("--output=", "--input and --output must not be empty", id="no output"),
        pytest.param("--input=", "--input and --output must not be empty", id="no input"),
    ],
)
def test_values_out_of_range(argument: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse([*REQUIRED, argument])


NUMBERS = {
    *("--fetch_timeout", "--batch_timeout", "--max_failure_ratio", "--min_score", "--worker_price", "--sample"),
    *("--temperature", "--length_penalty", "--request_timeout"),
}


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999"])
@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_numbers_are_finite(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=rf"^{name} must be .*, not {float(value)}"):
        parse([*REQUIRED, f"{name}={value}"])


def test_no_number_is_forgotten_above() -> None:
    assert {
        name for action in job_parser()._actions if action.type is number for name in action.option_strings
    } == NUMBERS


WHOLE_NUMBERS = [a.option_strings[0] for a in job_parser()._actions if a.type is whole_number]


@pytest.mark.parametrize("name", WHOLE_NUMBERS)
def test_whole_numbers_are_in_range(name: str) -> None:
    with pytest.raises(UsageError, match=f"^{name} must be .*, not -1$"):
        parse([*REQUIRED, f"{name}=-1"])
    if name not in ("--top_k", "--seed"):  # of any size
        with pytest.raises(UsageError, match=f"^{name} must be at most [0-9]+, not {'9' * 30}$"):
            parse([*REQUIRED, f"{name}={'9' * 30}"])


@pytest.mark.parametrize("value", ["1.5", "x", "", "nan"])
@pytest.mark.parametrize("name", WHOLE_NUMBERS)
def test_whole_numbers_are_numbers(name: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([*REQUIRED, f"{name}={value}"])
    assert capsys.readouterr().err == f"caption-images: {name} must be a whole number, not {value!r}\n"


@pytest.mark.parametrize("value", [True, "3", 1.5, None])
def test_the_record_checks_types(value: object) -> None:
    with pytest.raises(ValueError, match=f"--shard_size must be a whole number from 1, not {value!r}"):
        JobConfig(("photos",), "out", shard_size=value)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        pytest.param([], "--input and --output are required; see caption-images --help", id="nothing"),
        pytest.param(["--input=a"], "--output is required; see caption-images --help", id="no output"),
        pytest.param(["--input=a", "--ouput=b"], "unknown option --ouput; did you mean --output?", id="misspelt"),
        pytest.param(["--input=a", "--ouput", "b"], "unknown option --ouput; did you mean --output?", id="two words"),
        pytest.param(["--input=a", "-output=b"], "unknown option -output; did you mean --output?", id="one dash"),
        pytest.param(["--Input=a", "--output=b"], "unknown option --Input; did you mean --input?", id="capital"),
        pytest.param(["--in=a", "--output=b"], "unknown option --in; did you mean --input?", id="abbreviated"),
        pytest.param([*REQUIRED, "--output"], "--output needs a value", id="no value"),
        pytest.param([*REQUIRED, "--estimate=1"], "--estimate takes no value, not '1'", id="a flag's value"),
        pytest.param(
            [*REQUIRED, "--retry=al"], "--retry must be one of transient, all, none, not 'al'", id="no such choice"
        ),
        pytest.param(["--input=a", "--ouput\x1b"], r"unknown option --ouput\x1b; did you mean --output?", id="escape"),
    ],
)
def test_usage_errors_are_one_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        parse(arguments)
    assert refused.value.code == 2
    assert capsys.readouterr().err == f"caption-images: {line}\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        pytest.param(["--outptu=a"], "unknown option --outptu; did you mean --output?", id="required"),
        pytest.param(
            ["--output=a", "--no_lising"], "unknown option --no_lising; did you mean --no_listing?", id="flag"
        ),
        pytest.param(["--output=a", "b"], "unknown argument b; see caption-images status --help", id="stray word"),
    ],
)
def test_usage_errors_of_a_command(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = CommandParser("caption-images status")
    parser.add_argument("--output", required=True)
    parser.add_argument("--no_listing", action="store_true")
    with pytest.raises(SystemExit) as refused:
        parser.parse_args(arguments)
    assert refused.value.code == 2
    assert capsys.readouterr().err == f"caption-images: {line}\n"


def test_a_custom_captioner() -> None:
    config, _ = parse([*REQUIRED, "--captioner=package.module:function", "--model=hub/name"])
    assert (config.captioner, config.model) == ("package.module:function", "hub/name")
    with pytest.raises(
        UsageError, match="--engine=tensorflow applies to model bundles only and cannot be combined with --captioner"
    ):
        parse([*REQUIRED, "--captioner=package.module:function", "--engine=tensorflow"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--shard_sise=3"], "did you mean --shard_size?", id="own option misspelt"),
        pytest.param(["--regoin=us"], "did you mean --region?", id="option of Beam misspelt"),
        pytest.param(["--zzzz"], "see --help", id="nothing like it"),
        pytest.param(["stray.jpg"], "unknown option stray.jpg", id="a stray word"),
        pytest.param(
            ["--runner=DaskRunner", "--dask_client_address=tcp://host:1", "--workers=2"],
            "--workers=2",
            id="dask workers",
        ),
        pytest.param(["--runner=PortableRunner"], "needs --job_endpoint=HOST:PORT", id="no job server"),
    ],
)
def test_options_that_beam_does_not_know(arguments: list[str], message: str) -> None:
    with pytest.raises(RunnerError, match=message.replace("?", r"\?")):
        beam_options(JobConfig(("x",), "out"), arguments, option_names())


@pytest.mark.parametrize("runner", [[], ["--runner=DirectRunner"], ["--runner=direct"], ["--runner=FnApiRunner"]])
def test_local_runs_never_try_to_download_a_runner(runner: list[str]) -> None:
    options = beam_options(JobConfig(("x",), "out"), runner)
    assert options.get_all_options()["runner"] == "FnApiRunner"
    assert runs_here(options)


def test_workers_are_processes_here_and_nowhere_else() -> None:
    options = beam_options(JobConfig(("x",), "out", workers=3), []).get_all_options()
    assert (options["direct_num_workers"], options["direct_running_mode"]) == (3, "multi_processing")
    with pytest.raises(RunnerError, match="--workers=3 is for this machine"):
        beam_options(JobConfig(("x",), "out", workers=3), ["--runner=DataflowRunner"])


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "beam_job", *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        pytest.param(["--help"], 0, id="help"),
        pytest.param(["--version"], 0, id="version"),
        pytest.param([], 2, id="nothing"),
        pytest.param([*REQUIRED, "--batch_size=0"], 2, id="out of range"),
        pytest.param([*REQUIRED, "--batch_size=x"], 2, id="no number"),
        pytest.param([*REQUIRED, "--runner=DataflowRunner"], 2, id="Dataflow without a project"),
        pytest.param([*REQUIRED, "--gpu=nvidia-l4"], 2, id="a GPU without Dataflow"),
    ],
)
def test_help_and_wrong_usage_wait_for_nothing_large(arguments: list[str], code: int) -> None:
    done = command(*arguments)
    assert done.returncode == code
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "beam_job.cli.options" in imported
    assert not imported & {"tensorflow", "keras", "apache_beam", "pyarrow", "google.cloud.storage"}


def test_help_names_every_option_with_its_default() -> None:
    text = command("--help").stdout
    for name in option_names():
        assert name in text
    assert text.count("(default:") >= 14


def test_configuration_travels() -> None:
    config, _ = parse([*REQUIRED, "--decoding=sample", "--seed=7"])
    assert pickle.loads(pickle.dumps(config)) == config


def test_a_tilde_stands_for_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config, _ = parse(["--input=~/photos", "--input=~", "--input=a~/b", "--output=~/out", "--include=~x"])
    assert config.inputs == ("/home/me/photos", "/home/me", "a~/b")
    assert config.output == "/home/me/out"
    assert config.filters.include == ("~x",)
