"""The command line: what it accepts, and which field each option sets."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from beam_job.cli.options import UsageError, option_names, parse
from beam_job.config import JobConfig
from beam_job.inputs.endpoint import Endpoint
from model import Decoding

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


def test_a_custom_captioner() -> None:
    config, _ = parse([*REQUIRED, "--captioner=package.module:function", "--model=hub/name"])
    assert (config.captioner, config.model) == ("package.module:function", "hub/name")
    with pytest.raises(
        UsageError, match="--engine=tensorflow applies to model bundles only and cannot be combined with --captioner"
    ):
        parse([*REQUIRED, "--captioner=package.module:function", "--engine=tensorflow"])


def test_configuration_travels() -> None:
    config, _ = parse([*REQUIRED, "--decoding=sample", "--seed=7"])
    assert pickle.loads(pickle.dumps(config)) == config


def test_a_tilde_stands_for_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config, _ = parse(["--input=~/photos", "--input=~", "--input=a~/b", "--output=~/out", "--include=~x"])
    assert config.inputs == ("/home/me/photos", "/home/me", "a~/b")
    assert config.output == "/home/me/out"
    assert config.filters.include == ("~x",)
