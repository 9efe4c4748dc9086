"""What an output records of a `JobConfig`, without secrets: a request in `run.json`, options in `summary.json`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from beam_job.config import JobConfig
from beam_job.inputs.filters import Filters
from beam_job.inputs.lists import is_list
from beam_job.storage import absolute, public_name, scheme_of


def request_of(config: JobConfig) -> dict[str, Any]:
    """The options that select the images, as JSON types; an interrupted run is resumed only if they are equal.

    `min_score` and `image_columns` are among them so that all files of a run have the same columns. Relative names
    count as where they were given: the same name in another folder is another request.
    """
    optional: dict[str, Any] = {} if config.min_score is None else {"min_score": config.min_score}
    if config.image_columns:
        optional["image_columns"] = list(config.image_columns)
    if config.delimiter is not None:
        optional["delimiter"] = config.delimiter
    if any(scheme_of(given) == "file" and is_list(given) for given in config.inputs):
        optional["folder"] = os.getcwd()  # where their relative names start
    return optional | {
        "inputs": [_without_secrets(absolute(given)) for given in config.inputs],
        "uri_column": config.uri_column,
        "carry_columns": list(config.carry_columns),
        "filters": json.loads(json.dumps(dataclasses.asdict(config.filters))),
        "recaption": config.recaption,
        "untrusted_lists": config.untrusted_lists,
        "allow": {
            "schemes": list(config.allow_schemes),
            "root": [absolute(root) for root in config.allow_root],
            "buckets": list(config.allow_buckets),
            "private_addresses": config.allow_private_addresses,
        },
    }


def config_of_request(request: Mapping[str, Any], output: str) -> JobConfig:
    """The configuration that `request` was made from; the secrets of its inputs were not recorded."""
    return JobConfig(
        inputs=tuple(request["inputs"]),
        output=output,
        uri_column=request["uri_column"],
        carry_columns=tuple(request["carry_columns"]),
        delimiter=request.get("delimiter"),
        untrusted_lists=bool(request.get("untrusted_lists", True)),  # as earlier versions treated them
        filters=Filters(**{name: _tuple_of(value) for name, value in request["filters"].items()}),
        recaption=bool(request.get("recaption", False)),
        **{f"allow_{name}": _tuple_of(value) for name, value in request.get("allow", {}).items()},
    )


def public_options(config: JobConfig) -> dict[str, Any]:
    """All options for the summary, without passwords and signatures of the inputs."""
    options = dataclasses.asdict(config) | {"inputs": tuple(_without_secrets(given) for given in config.inputs)}
    if config.endpoint is not None:
        options["endpoint"]["url"] = _without_secrets(config.endpoint.url)
    return options


def _tuple_of(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _without_secrets(given: str) -> str:
    """An input without its secrets; a checksum of its query keeps it distinct from other inputs."""
    public = public_name(given)
    query = given.partition("?")[2]
    if public == given or not query:
        return public
    return f"{public}?sha256={hashlib.sha256(query.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}"
