"""The job's configuration: one frozen record, checked when made, that travels to every worker."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from beam_job.inputs.filters import Filters
from beam_job.storage import SCHEMES, Allowed, absolute, bucket_of, public_name, scheme_of
from model import Decoding
from model.engine_choice import check_precision
from model.preprocessing import MAX_PIXELS

# Which failures of earlier runs are tried again; one of another version of the file never stands in the way.
RETRY = ("transient", "all", "none")
_FUNCTION = re.compile(r"\w+(\.\w+)*:\w+")
_COUNTS = ("shard_size", "batch_size", "fetch_threads", "decode_threads", "max_pixels", "workers", "report_samples")


@dataclass(frozen=True)
class JobConfig:
    """What the user asked for.

    Attributes:
      inputs: folders, globs, lists of URIs or single images.
      output: folder of the results.
      model: folder of the bundle, local or in a bucket; None for the one that ships, wherever the worker has it.
      captioner: `module:function` that makes the captioner instead; it gets `model` as it stands, and `decoding`.
      decoding: how words are chosen.
      min_score: captions with a lower score are marked in a column of their own; None for no such column. It is no part
        of what tells whether an image is done.
      shard_size: images a shard, the unit of work and of output files.
      batch_size: images that the model captions at once; None for what suits the worker's device.
      uri_column: of lists that have columns.
      carry_columns: columns of the lists that the output rows repeat.
      filters: which of the listed images to caption.
      allow_schemes: that lists may name, beside those of `inputs`.
      allow_root: local folders below which lists may name files, beside those of `inputs`.
      allow_buckets: that lists may name, `scheme://bucket` or a name alone, beside those of `inputs`.
      allow_private_addresses: let images come from web servers of an intranet.
      retry: which failures of earlier runs to try again, one of `RETRY`.
      recaption: caption everything, whatever earlier runs have done.
      fetch_threads: images fetched at the same time; None for 32, or 8 a core beside a GPU.
      fetch_timeout: seconds for one image, retries included.
      batch_timeout: seconds after which a batch that has not ended fails the run.
      in_flight_bytes: of image files and pixels that are ahead of the model, in each process.
      decode_threads: images decoded at the same time; None for one a core of the machine that decodes, 8 at most,
        or 32 beside a GPU.
      max_pixels: of an image, at the size at which it is decoded.
      workers: processes on this machine.
      engine: what runs the encoder, one of `model.engine_choice.ENGINES`. The captions are the same but for rounding,
        so it is no part of what tells whether an image is done.
      precision: what the encoder computes in, one of `model.engine_choice.PRECISIONS`; likewise.
      require_gpu: refuse to caption on the CPU.
      max_failure_ratio: of the inputs, from 0 to 1; beyond it the job counts as broken.
      no_report: write no review page.
      report_samples: captions on it with their pictures.
      gpu: for each worker of Dataflow, one of `machines.GPUS`.
      estimate: tell what the run would take and cost, and do nothing.
      worker_price: dollars an hour for that, instead of the list price.
      verbose: show what Beam and TensorFlow say of themselves.
    """

    inputs: tuple[str, ...]
    output: str
    model: str | None = None
    captioner: str | None = None
    decoding: Decoding = field(default_factory=Decoding)
    min_score: float | None = None
    shard_size: int = 512
    batch_size: int | None = None
    uri_column: str = "uri"
    carry_columns: tuple[str, ...] = ()
    filters: Filters = field(default_factory=Filters)
    allow_schemes: tuple[str, ...] = ()
    allow_root: tuple[str, ...] = ()
    allow_buckets: tuple[str, ...] = ()
    allow_private_addresses: bool = False
    retry: str = "transient"
    recaption: bool = False
    fetch_threads: int | None = None
    fetch_timeout: float = 60.0
    batch_timeout: float = 7200.0
    in_flight_bytes: int = 256 * 2**20
    decode_threads: int | None = None
    max_pixels: int = MAX_PIXELS
    workers: int = 1
    engine: str = "auto"
    precision: str = "auto"
    require_gpu: bool = False
    max_failure_ratio: float = 0.5
    no_report: bool = False
    report_samples: int = 200
    gpu: str | None = None
    estimate: bool = False
    worker_price: float | None = None
    verbose: bool = False

    def __post_init__(self) -> None:
        for name in (
            "shard_size",
            "batch_size",
            "fetch_threads",
            "decode_threads",
            "max_pixels",
            "workers",
            "report_samples",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be a whole number from 1, not {value}")
        if self.retry not in RETRY:
            raise ValueError(f"--retry must be one of {', '.join(RETRY)}, not {self.retry!r}")
        check_precision(self.engine, self.precision)
        if self.engine == "litert" and self.require_gpu:
            raise ValueError("--engine=litert is for the CPU, and --require_gpu refuses it; leave one of them out")
        if self.captioner is not None and not _FUNCTION.fullmatch(self.captioner):
            raise ValueError(f"--captioner must be package.module:function, not {self.captioner!r}")
        for name in ("engine", "precision"):
            value = getattr(self, name)
            if self.captioner is not None and value != "auto":
                raise ValueError(f"--{name}={value} is for bundles, and --captioner is none; leave one of them out")
        if self.min_score is not None and not math.isfinite(self.min_score):
            raise ValueError(f"--min_score must be a number, not {self.min_score}")
        if self.engine == "litert" and self.gpu:
            raise ValueError(f"--engine=litert is for the CPU, and --gpu={self.gpu} is not; leave one of them out")
        if self.worker_price is not None and not 0 <= self.worker_price < math.inf:
            raise ValueError(f"--worker_price must be dollars an hour, not {self.worker_price}")
        if self.fetch_timeout <= 0:
            raise ValueError(f"--fetch_timeout must be above 0 seconds, not {self.fetch_timeout}")
        if not self.batch_timeout > 0:  # true for NaN also
            raise ValueError(f"--batch_timeout must be above 0 seconds, not {self.batch_timeout}")
        if not 0 <= self.max_failure_ratio <= 1:
            raise ValueError(f"--max_failure_ratio must be from 0 to 1, not {self.max_failure_ratio}")
        for scheme in self.allow_schemes:
            if scheme not in SCHEMES:
                raise ValueError(f"--allow_schemes must be some of {', '.join(SCHEMES)}, not {scheme!r}")
        for root in self.allow_root:
            if scheme_of(root) != "file":
                raise ValueError(f"--allow_root must be a local folder, not {root!r}; buckets go to --allow_buckets")
        for bucket in self.allow_buckets:
            if "/" in bucket and bucket_of(bucket) != bucket:
                raise ValueError(f"--allow_buckets takes a bucket as a whole, {bucket_of(bucket)}, not {bucket!r}")

    @classmethod
    def from_request(cls, request: Mapping[str, Any], output: str) -> JobConfig:
        """A configuration with the `request` that a run has noted; inputs are without their secrets there."""
        return cls(
            inputs=tuple(request["inputs"]),
            output=output,
            uri_column=request["uri_column"],
            carry_columns=tuple(request["carry_columns"]),
            filters=Filters(**{name: _tuple_of(value) for name, value in request["filters"].items()}),
            recaption=bool(request.get("recaption", False)),
            **{f"allow_{name}": _tuple_of(value) for name, value in request.get("allow", {}).items()},
        )

    def with_absolute_paths(self) -> JobConfig:
        """The same, for processes that have another working directory."""
        return dataclasses.replace(
            self,
            inputs=tuple(map(absolute, self.inputs)),
            output=absolute(self.output),
            model=self.model and absolute(self.model),
            allow_root=tuple(map(absolute, self.allow_root)),
        )

    @property
    def allowed(self) -> Allowed:
        """The places that the job may read."""
        from beam_job.inputs.listing import allowed_places  # imports Arrow, which --help does without

        return allowed_places(
            self.inputs, self.allow_schemes, self.allow_root, self.allow_buckets, self.allow_private_addresses
        )

    @property
    def request(self) -> dict[str, Any]:
        """What decides which images are to be captioned, in JSON's types; a killed run is continued by the same.

        `min_score` is in it so that all files of a run have the same columns.
        """
        marked = {} if self.min_score is None else {"min_score": self.min_score}
        return marked | {
            "inputs": [_noted(given) for given in self.inputs],
            "uri_column": self.uri_column,
            "carry_columns": list(self.carry_columns),
            "filters": json.loads(json.dumps(dataclasses.asdict(self.filters))),
            "recaption": self.recaption,
            "allow": {
                "schemes": list(self.allow_schemes),
                "root": list(self.allow_root),
                "buckets": list(self.allow_buckets),
                "private_addresses": self.allow_private_addresses,
            },
        }

    @property
    def options(self) -> dict[str, Any]:
        """All of it for the summary, with neither passwords nor signatures of the inputs."""
        return dataclasses.asdict(self) | {"inputs": tuple(_noted(given) for given in self.inputs)}


def _tuple_of(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _noted(given: str) -> str:
    """An input without its secrets; a checksum of its query still tells it from others."""
    public = public_name(given)
    query = given.partition("?")[2]
    if public == given or not query:
        return public
    return f"{public}?sha256={hashlib.sha256(query.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}"
