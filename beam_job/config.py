"""The job's configuration: one frozen record, checked when it is made and sent to every worker."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from beam_job.inputs.carried import carried_names
from beam_job.inputs.endpoint import Endpoint
from beam_job.inputs.filters import Filters
from beam_job.inputs.prompts import Prompt, check_prompts
from beam_job.storage import REQUESTS_PER_HOST, SCHEMES, USER_AGENT, Access, Allowed, absolute, bucket_of, scheme_of
from model import Decoding
from model.engine_choice import CPU_ENGINES, check_precision
from model.preprocessing import MAX_PIXELS

if TYPE_CHECKING:
    from beam_job.inputs.rows import ListOptions

# Which failures of earlier runs are retried. Images whose file has changed since are always captioned.
RETRY = ("transient", "all", "none")
DEDUPE = ("content",)
IMAGE_COLUMNS = ("sha256", "phash", "format", "bytes", "exif")
_FUNCTION = re.compile(r"\w+(\.\w+)*:\w+")
# Captioners of this package, as functions that are called with a `JobConfig` (`beam_job.captioners`).
NAMED_CAPTIONERS = {
    "transformers": "beam_job.captioners.transformers_models:open_captioner",
    "keras_hub": "beam_job.captioners.keras_hub_models:open_captioner",
    "openai": "beam_job.captioners.openai_endpoint:open_captioner",
}
# Whole numbers from 1, and the largest value that can be of use: more threads than a system has, for instance, would
# end a run with a traceback after it has begun.
_LARGEST = {
    "shard_size": 1_000_000,
    "batch_size": 65_536,
    "fetch_threads": 1_000,
    "requests_per_host": 1_000,
    "in_flight_bytes": 2**50,
    "decode_threads": 1_000,
    "max_pixels": 2**40,
    "workers": 1_000,
    "report_samples": 1_000_000,
    "max_new_tokens": 1_000_000,
    "max_side": 16_384,
}
_OPTIONAL = ("batch_size", "fetch_threads", "decode_threads", "max_side")  # None: a default that is chosen later
_LONGEST_TIMEOUT = 86_400  # seconds; a day


@dataclass(frozen=True)
class JobConfig:
    """The job's options, checked when the record is made (ValueError, which quotes the option and its value).

    Attributes:
      inputs: folders, globs, lists of URIs or single images.
      output: the job's output folder.
      model: folder of a model bundle, local or in a bucket; None for the bundled model, wherever it is installed on the
        worker. With `captioner`, whatever that takes for it.
      captioner: what captions instead of a bundle: a name in `NAMED_CAPTIONERS`, whose function is called with
        this record, or `module:function`, which is called with `model`, unchanged, and `decoding`.
      decoding: how words are chosen.
      prompts: what the captioner is asked, in the order of the captions; none for its own way of captioning.
      max_new_tokens: the longest caption of a named captioner, in tokens.
      max_side: the longest side of the pictures that a named captioner is given, in pixels; None for its default.
      endpoint: of the captioner "openai"; None for all others.
      image_columns: facts about each image for the output rows, of `IMAGE_COLUMNS`.
      dedupe: "content" to caption images with the same bytes once; None to caption each.
      min_score: captions with a lower score are marked in the column `low_confidence`; None for no such column. It does
        not decide whether an image needs a new caption.
      shard_size: images per shard, the unit of work and of output files.
      batch_size: images per call of the model; None for a size that suits the worker's device.
      uri_column: the column that holds the URIs, in lists with columns.
      carry_columns: columns of the lists to copy to the output rows: `COLUMN`, or `NAME=COLUMN` for another name.
      delimiter: character between the values of CSV lists; None for a comma, or a tab in `.tsv`.
      filters: which of the listed images to caption.
      untrusted_lists: whether lists and folders on this machine may name only what the options below allow, like lists
        from buckets and the web; otherwise they may name local files, buckets and public web addresses.
      allow_schemes: schemes that lists may name, in addition to those of `inputs`.
      allow_root: local folders whose files lists may name, in addition to those of `inputs`.
      allow_buckets: buckets that lists may name, `scheme://bucket` or the name alone, in addition to those of `inputs`.
      allow_private_addresses: allow web servers with private addresses, as in an intranet.
      retry: which failures of earlier runs to retry, one of `RETRY`.
      recaption: caption all images, including those that earlier runs have captioned.
      fetch_threads: images fetched at the same time; None for 32, or 8 per decoding core beside a GPU.
      fetch_timeout: seconds per image, retries included.
      requests_per_host: requests at a time to one web server.
      user_agent: what web servers see as the program that asks.
      respect_noai: leave out images whose server sends `X-Robots-Tag: noai` or `noimageai`.
      billing_project: Google Cloud project that pays for reading buckets whose requester pays; None for none.
      batch_timeout: seconds after which a batch that has not ended fails the run.
      in_flight_bytes: bytes per process of image files and pixels that wait for the model.
      decode_threads: images decoded at the same time; None for one per core of the decoding machine, at most 8, or 32
        beside a GPU.
      max_pixels: largest image, in pixels at the size at which it is decoded.
      workers: processes on this machine.
      engine: what runs the encoder, one of `model.engine_choice.ENGINES`. Captions differ by rounding only, so neither
        this nor `precision` decides whether an image needs a new caption.
      precision: number format of the encoder, one of `model.engine_choice.PRECISIONS`.
      require_gpu: refuse to caption on the CPU.
      max_failure_ratio: share of the images, from 0 to 1; if more of them fail, so does the job, see
        `Summary.failure_ratio`.
      no_report: do not write a review page.
      report_samples: captions that have a picture on the page.
      gpu: GPU type of each Dataflow worker, one of `machines.GPUS`.
      estimate: print what the run would take and cost instead of running.
      worker_price: dollars per worker and hour for the estimate, instead of the list price.
      verbose: show Beam and TensorFlow logs.
    """

    inputs: tuple[str, ...]
    output: str
    model: str | None = None
    captioner: str | None = None
    decoding: Decoding = field(default_factory=Decoding)
    prompts: tuple[Prompt, ...] = ()
    max_new_tokens: int = 100
    max_side: int | None = None
    endpoint: Endpoint | None = None
    min_score: float | None = None
    image_columns: tuple[str, ...] = ()
    dedupe: str | None = None
    shard_size: int = 512
    batch_size: int | None = None
    uri_column: str = "uri"
    carry_columns: tuple[str, ...] = ()
    delimiter: str | None = None
    filters: Filters = field(default_factory=Filters)
    untrusted_lists: bool = False
    allow_schemes: tuple[str, ...] = ()
    allow_root: tuple[str, ...] = ()
    allow_buckets: tuple[str, ...] = ()
    allow_private_addresses: bool = False
    retry: str = "transient"
    recaption: bool = False
    fetch_threads: int | None = None
    fetch_timeout: float = 60.0
    requests_per_host: int = REQUESTS_PER_HOST
    user_agent: str = USER_AGENT
    respect_noai: bool = False
    billing_project: str | None = None
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
    report_samples: int = 5_000
    gpu: str | None = None
    estimate: bool = False
    worker_price: float | None = None
    verbose: bool = False

    def __post_init__(self) -> None:
        self._check_numbers()
        if self.retry not in RETRY:
            raise ValueError(f"--retry must be one of {', '.join(RETRY)}, not {self.retry!r}")
        if self.dedupe not in (None, *DEDUPE):
            raise ValueError(f"--dedupe must be {', '.join(DEDUPE)}, not {self.dedupe!r}")
        Access(self.user_agent)
        self._check_image_columns()
        check_precision(self.engine, self.precision)
        self._check_captioner_and_devices()
        self._check_allowed_places()

    def _check_image_columns(self) -> None:
        for name in self.image_columns:
            if name not in IMAGE_COLUMNS:
                raise ValueError(f"--image_columns accepts {', '.join(IMAGE_COLUMNS)}, not {name!r}")
            if self.image_columns.count(name) > 1 or name in carried_names(self.carry_columns):
                raise ValueError(f"--image_columns: the output would have two columns named {name!r}; name it once")
        if "phash" in self.image_columns and not importlib.util.find_spec("imagehash"):
            raise ValueError("--image_columns=phash needs pip install 'caption-images[phash]'")

    def _check_numbers(self) -> None:
        for name, largest in _LARGEST.items():
            _check_count(name, getattr(self, name), largest)
        for name in ("fetch_timeout", "batch_timeout"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 < value <= _LONGEST_TIMEOUT):
                raise ValueError(f"--{name} must be above 0 and at most {_LONGEST_TIMEOUT} seconds, not {value!r}")
        if not (_is_number(self.max_failure_ratio) and 0 <= self.max_failure_ratio <= 1):
            raise ValueError(f"--max_failure_ratio must be from 0 to 1, not {self.max_failure_ratio!r}")
        if self.min_score is not None and not _is_number(self.min_score):
            raise ValueError(f"--min_score must be a finite number, at most 0, not {self.min_score!r}")
        if self.min_score is not None and self.min_score > 0:
            raise ValueError(f"--min_score must be at most 0, as all scores are, not {self.min_score!r}")
        price = self.worker_price
        if price is not None and not (_is_number(price) and price >= 0):
            raise ValueError(f"--worker_price must be dollars per hour, a finite number from 0, not {price!r}")

    def _check_captioner_and_devices(self) -> None:
        if not (self.captioner is None or self.is_named or _FUNCTION.fullmatch(self.captioner)):
            names = ", ".join(NAMED_CAPTIONERS)
            raise ValueError(f"--captioner must be {names} or package.module:function, not {self.captioner!r}")
        if (self.captioner == "openai") != (self.endpoint is not None):
            raise ValueError("--captioner=openai and --endpoint=URL need each other; give both or neither")
        if self.captioner == "openai" and not self.model:
            raise ValueError("--captioner=openai needs --model=NAME, the model's name at the endpoint")
        check_prompts(self.prompts, carried_names(self.carry_columns))
        if self.prompts and self.captioner is None:
            raise ValueError("--prompt needs a --captioner that takes prompts; a model bundle captions without one")
        for name in ("engine", "precision"):
            value = getattr(self, name)
            if self.captioner is not None and value != "auto":
                raise ValueError(
                    f"--{name}={value} applies to model bundles only and cannot be combined with --captioner; "
                    "remove one of the two options"
                )
        gpu_option = "--require_gpu" if self.require_gpu else f"--gpu={self.gpu}" if self.gpu else None
        if self.engine in CPU_ENGINES and gpu_option:
            raise ValueError(
                f"--engine={self.engine} runs on the CPU, so it contradicts {gpu_option}; remove one of the two"
            )

    def _check_allowed_places(self) -> None:
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise ValueError(f"--delimiter must be one character, such as ';' or '\\t', not {self.delimiter!r}")
        for scheme in self.allow_schemes:
            if scheme not in SCHEMES:
                raise ValueError(f"--allow_schemes accepts {', '.join(SCHEMES)}, not {scheme!r}")
        for root in self.allow_root:
            if scheme_of(root) != "file":
                raise ValueError(f"--allow_root must be a local folder, not {root!r}; for buckets use --allow_buckets")
        for bucket in self.allow_buckets:
            if "/" in bucket and bucket_of(bucket) != bucket:
                raise ValueError(f"--allow_buckets accepts whole buckets such as {bucket_of(bucket)}, not {bucket!r}")

    def with_absolute_paths(self) -> JobConfig:
        """A copy with absolute paths, for processes with another working directory."""
        return dataclasses.replace(
            self,
            inputs=tuple(map(absolute, self.inputs)),
            output=absolute(self.output),
            model=self.model and (self.model if self._names_a_repository else absolute(self.model)),
            allow_root=tuple(map(absolute, self.allow_root)),
        )

    @property
    def is_named(self) -> bool:
        """Whether the captioner is one of this package's own, by name."""
        return self.captioner in NAMED_CAPTIONERS

    @property
    def _names_a_repository(self) -> bool:
        """Whether `model` is a name that a captioner looks up, not a place."""
        if self.captioner == "openai":
            return True
        return self.is_named and scheme_of(self.model or "") == "file" and not os.path.exists(self.model or "")

    @property
    def allowed(self) -> Allowed:
        """The places that the job may read from, for what is not of this machine's disk."""
        from beam_job.inputs.listing import allowed_places  # imports Arrow, which would slow --help down

        return allowed_places(
            self.inputs, self.allow_schemes, self.allow_root, self.allow_buckets, self.allow_private_addresses
        )

    @property
    def list_options(self) -> ListOptions:
        """How lists are read."""
        from beam_job.inputs.rows import ListOptions  # imports Arrow

        return ListOptions(self.uri_column, self.carry_columns, self.delimiter, not self.untrusted_lists)

    @property
    def trusts_a_list(self) -> bool:
        """Whether a list on this machine is among the inputs, and may name anything but private addresses."""
        from beam_job.inputs.lists import is_list  # imports Arrow

        return not self.untrusted_lists and any(scheme_of(given) == "file" and is_list(given) for given in self.inputs)

    @property
    def access(self) -> Access:
        """How a worker process of this machine asks storages for files."""
        access = Access(self.user_agent, self.respect_noai, self.requests_per_host, self.billing_project or "")
        return access.shared_by(self.workers)


def _is_number(value: object) -> bool:
    """Whether it is a finite number; True and False are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_count(name: str, value: int | None, largest: int) -> None:
    """Raises ValueError if it is not a whole number from 1 to `largest`, or None for one of `_OPTIONAL`."""
    if value is None and name in _OPTIONAL:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"--{name} must be a whole number from 1, not {value!r:.40}")
    if value > largest:
        raise ValueError(f"--{name} must be at most {largest}, not {value!r:.40}")
