"""The options of `--captioner=openai`."""

from __future__ import annotations

import argparse
import dataclasses

from beam_job.inputs.endpoint import Endpoint
from model.decoding_options import add_number, whole_number


def add_endpoint_options(group: argparse._ArgumentGroup) -> None:
    """Adds an option for each field of `Endpoint`."""
    group.add_argument(
        "--endpoint",
        metavar="URL",
        help="URL of a server with OpenAI's chat completions API, such as http://localhost:8000/v1; images are sent "
        "there",
    )
    add_number(
        group,
        "concurrency",
        Endpoint.concurrency,
        "concurrent requests of each process; fewer while the server answers that it is overloaded",
    )
    add_number(
        group,
        "request_timeout",
        Endpoint.request_timeout,
        "seconds for one image, including retries; a single attempt gets half of them",
    )
    group.add_argument(
        "--max_tokens_total",
        type=whole_number,
        metavar="N",
        help="stop after N input and output tokens and leave the remaining images for the next run; requests in "
        "progress are completed (default: no limit)",
    )
    add_number(group, "jpeg_quality", Endpoint.jpeg_quality, "JPEG quality of the images that are sent, up to 100")
    group.add_argument(
        "--logprobs", action="store_true", help="request log-probabilities, whose mean is the score (default: no score)"
    )
    group.add_argument(
        "--api_key_env",
        default=Endpoint.api_key_env,
        metavar="NAME",
        help="environment variable that contains the API key, if the server needs one (default: %(default)s)",
    )


def endpoint_from(args: argparse.Namespace) -> Endpoint | None:
    """The endpoint's record. Raises ValueError for a value out of range, or an option without an endpoint."""
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(Endpoint) if field.name != "url"}
    endpoint = Endpoint(args.endpoint if args.endpoint is not None else "http://localhost", **given)
    if args.endpoint is not None:
        return endpoint
    for name, value in given.items():
        if value != getattr(Endpoint, name):
            raise ValueError(f"--{name} applies only to --captioner=openai with --endpoint=URL; remove it or add them")
    return None
