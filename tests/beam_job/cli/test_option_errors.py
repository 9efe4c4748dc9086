"""What the command line refuses: values out of range, misspelt options, options without a value."""

from __future__ import annotations

import pytest

from beam_job.cli.options import UsageError, job_parser, parse
from beam_job.config import JobConfig
from beam_job.inputs.options import CommandParser
from model.decoding_options import number, whole_number

REQUIRED = ["--input=photos", "--output=out"]


def test_litert_has_one_precision() -> None:
    with pytest.raises(UsageError, match="--engine=litert computes in float32; leave out --precision=float16"):
        parse([*REQUIRED, "--engine=litert", "--precision=float16"])


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
