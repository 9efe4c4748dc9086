"""Generates the metadata of the flex template from the parser.

    python -m beam_job.cli.flex_template > deploy/flex_template.json

Dataflow refuses a parameter that a template does not declare, so the template declares every option of the job, except
those in `NOT_FOR_TEMPLATES`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from beam_job.cli.options import job_parser
from beam_job.runners.machines import GPUS
from model.decoding_options import number, whole_number

# Options of the machine that the command is started on, and those that print something instead of running.
NOT_FOR_TEMPLATES = ("help", "version", "estimate", "worker_price", "workers", "allow_root")
_DESCRIPTION = "Captions all images of a bucket that have no caption yet, and writes the captions to Parquet files"
_IMAGE = {
    "name": "sdk_container_image",
    "label": "Worker image",
    "helpText": "Built from the Dockerfile (worker), such as us-central1-docker.pkg.dev/project/captions/worker:1",
    "regexes": [r"^[^\s]+/[^\s]+$"],
}
_SHARE = r"^(0|1|1\.0+|0?\.[0-9]+)$"
# What the launcher would refuse only after it has started.
_REGEXES = {
    "input": r"^[a-z0-9]+://[^\n\r]+$",
    "output": r"^gs://[^\n\r]+$",
    "sample": _SHARE,
    "max_failure_ratio": _SHARE,
    "batch_size": "^(auto|[1-9][0-9]*)$",
}
_FROM_ZERO = ("seed", "no_repeat_ngram", "min_bytes", "max_bytes")


def flex_template() -> dict[str, Any]:
    """The template's metadata, as Dataflow's `TemplateMetadata`."""
    parameters = [_parameter(action) for action in _actions()]
    required = [each for each in parameters if not each.get("isOptional")]
    optional = [each for each in parameters if each.get("isOptional")]
    return {
        "name": "caption-images",
        "description": _DESCRIPTION,
        "streaming": False,
        "parameters": [*required, _IMAGE, *optional],
    }


def _actions() -> Iterator[argparse.Action]:
    for action in job_parser()._actions:
        if action.dest not in NOT_FOR_TEMPLATES:
            yield action


def _parameter(action: argparse.Action) -> dict[str, Any]:
    text = (action.help or "") % {**vars(action), "prog": "caption-images"}
    parameter: dict[str, Any] = {
        "name": action.dest,
        "label": action.dest.replace("_", " ").capitalize(),
        "helpText": text[:1].upper() + text[1:],
    }
    if not action.required:
        parameter["isOptional"] = True
    return parameter | _type_of(action)


def _type_of(action: argparse.Action) -> dict[str, Any]:
    """The parameter's type and pattern."""
    choices = list(GPUS) if action.dest == "gpu" else list(action.choices or ())
    if isinstance(action.default, bool):
        return {"paramType": "BOOLEAN", "defaultValue": "false", "regexes": ["^(true|false)$"]}
    if choices:
        default = {} if action.default is None else {"defaultValue": str(action.default)}
        options = [{"value": value, "label": value} for value in choices]
        return {"paramType": "ENUM", "enumOptions": options, "regexes": [f"^({'|'.join(choices)})$"], **default}
    if action.dest in _REGEXES:
        is_number = action.type is number
        return ({"paramType": "NUMBER"} if is_number else {}) | {"regexes": [_REGEXES[action.dest]]}
    if action.type is whole_number:
        pattern = "^[0-9]+$" if action.dest in _FROM_ZERO else "^[1-9][0-9]*$"
        return {"paramType": "NUMBER", "regexes": [pattern]}
    if action.type is number:
        return {"paramType": "NUMBER", "regexes": [r"^-?[0-9]*\.?[0-9]+$"]}
    return {}


if __name__ == "__main__":
    print(json.dumps(flex_template(), indent=2))
