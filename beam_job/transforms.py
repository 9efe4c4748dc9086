"""Captions images in your own Beam pipeline: a transform, and a model handler for `RunInference`.

    import apache_beam as beam
    from beam_job import CaptionImages

    with beam.Pipeline() as pipeline:
        results = pipeline | beam.Create(["gs://photos/dog.jpg"]) | CaptionImages(allow_buckets=["gs://photos"])
        results.captions | "Print" >> beam.Map(print)
        results.failures | "Log" >> beam.Map(logging.warning)

Both use the same loaders, batches and captioners as the command, but need no output folder, plan or lease.
"""

from __future__ import annotations

import datetime
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from apache_beam.ml.inference.base import ModelHandler
from apache_beam.typehints.row_type import RowTypeConstraint
from apache_beam.utils.timestamp import Timestamp

from beam_job.captioning.batches import BatchCaptioner
from beam_job.captioning.caption_elements import FAILURES, CaptionElements
from beam_job.captioning.caption_shards import batch_size_of, open_captioner
from beam_job.captioning.captioners import model_version
from beam_job.captioning.progress_file import ProgressFile
from beam_job.config import JobConfig
from beam_job.inputs.filters import Filters
from beam_job.inputs.prompts import Prompt
from beam_job.output.tables import FAILURE_SCHEMA, caption_schema, unfilled_columns
from beam_job.records import CaptionedImage, DecodedImage, Failure, ImageInput

_CAPTIONER_OPTIONS = (
    *("model", "captioner", "prompts", "decoding", "batch_size", "engine", "precision", "require_gpu"),
    *("max_side", "max_new_tokens", "endpoint"),
)
_OPTIONS = (
    *_CAPTIONER_OPTIONS,
    *("min_score", "min_bytes", "max_bytes", "max_pixels", "fetch_timeout", "batch_timeout", "in_flight_bytes"),
    *("fetch_threads", "decode_threads"),
    *("allow_schemes", "allow_root", "allow_buckets", "allow_private_addresses"),
)
_BATCH = 256  # images that RunInference hands over; the captioner divides them into its own batches
_TYPES = {
    pa.string(): str | None,
    pa.float32(): float | None,
    pa.int32(): int | None,
    pa.bool_(): bool | None,
    pa.timestamp("ms", tz="UTC"): Timestamp,
    pa.list_(pa.string()): Sequence[str],
    pa.list_(pa.float32()): Sequence[float | None],
}
Row = dict[str, Any]


class CaptionResults(dict[str, Any]):
    """The two outputs of `CaptionImages`; each element of its input is in exactly one of them.

    Attributes:
      captions: a PCollection of dicts with the columns of `captions/` (docs/output.md), and the fields of the input
      element. failures: a PCollection of dicts with the columns of `failures/`, and the fields of the input element.
    """

    def __init__(self, captions: beam.PCollection[Row], failures: beam.PCollection[Row], config: JobConfig) -> None:
        super().__init__(captions=captions, failures=failures)
        self.captions = captions
        self.failures = failures
        self._config = config

    def caption_rows(self, **fields: Any) -> beam.PCollection[beam.Row]:
        """`captions` with a Beam schema, for SqlTransform, data frames and other languages.

        Args:
          fields: types of the input fields to keep in the rows, such as `product_id=int`; other input fields are
          dropped.
        """
        unfilled = unfilled_columns(self._config.decoding.num_captions > 1, self._config.min_score is not None)
        columns = [column for column in caption_schema(self._config.prompts) if column.name not in unfilled]
        return self.captions | "CaptionRows" >> _WithSchema(pa.schema(columns), fields)

    def failure_rows(self, **fields: Any) -> beam.PCollection[beam.Row]:
        """`failures` with a Beam schema; `fields` as for `caption_rows`."""
        return self.failures | "FailureRows" >> _WithSchema(FAILURE_SCHEMA, fields)


class CaptionImages(beam.PTransform):
    """Captions the images that URIs name, in batch and in streaming pipelines.

    The input is a PCollection of URIs, or of dicts (or rows with a schema) that have a field `uri`; other fields are
    carried to the output. Timestamps and windows are kept. The output is a `CaptionResults`.

    The places that may be read must be named, since URIs may come from strangers; other URIs become failures.

    Args:
      options: options of the command, with the same names, defaults and checks: those of the captioner
        (`model`, `captioner`, `decoding`, `prompts`, `batch_size`, `engine`, `precision`, `require_gpu`, `max_side`,
        `max_new_tokens`), those that say what may be read (`allow_buckets`, `allow_root`, `allow_schemes`,
        `allow_private_addresses`), limits (`min_bytes`, `max_bytes`, `max_pixels`, `fetch_timeout`, `batch_timeout`,
        `in_flight_bytes`), `min_score`, `fetch_threads` and `decode_threads`. `prompts` maps names to texts; `endpoint`
        is a `beam_job.Endpoint`.

    Raises:
      TypeError: an option is unknown.
      ValueError: an option is out of range, or nothing may be read.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._config = _config("CaptionImages", _OPTIONS, options)
        if not self._config.allowed.schemes:
            raise ValueError(
                "CaptionImages reads only from places that you allow; name those of the images: "
                "allow_buckets=['gs://photos'], allow_root=['/data/photos'] or allow_schemes=['https']"
            )

    def expand(self, pcoll: beam.PCollection[Any]) -> CaptionResults:
        if "dask" in type(pcoll.pipeline.runner).__name__.lower():
            raise ValueError("CaptionImages does not run on DaskRunner, which drops elements emitted in finish_bundle")
        found = pcoll | "Caption" >> beam.ParDo(CaptionElements(self._config)).with_outputs(FAILURES, main="captions")
        for output in (found.captions, found[FAILURES]):
            output.element_type = dict[str, Any]
        return CaptionResults(found.captions, found[FAILURES], self._config)


class CaptionModelHandler(ModelHandler[Any, Any, BatchCaptioner]):
    """Captions decoded images in `RunInference`.

    Examples are pixels, uint8[S, S, 3] for a captioner of squares (`model.load_image` makes them) and uint8[H, W, 3]
    for others, or `beam_job.records.DecodedImage`. The inference of an image is a `CaptionedImage` or a `Failure`: an
    image that cannot be captioned does not fail its batch. Use `KeyedModelHandler` to keep URIs.

    Args:
      options: those of `CaptionImages` that concern the captioner.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._config = _config("CaptionModelHandler", _CAPTIONER_OPTIONS, options)

    def load_model(self) -> BatchCaptioner:
        config, log = self._config, ProgressFile(None).log
        captioner = open_captioner(config, model_version(config), log)
        batch_size = batch_size_of(config, captioner)
        return BatchCaptioner(captioner, batch_size, log, config.decoding.num_captions, config.prompts)

    def run_inference(
        self, batch: Sequence[Any], model: BatchCaptioner, inference_args: dict[str, Any] | None = None
    ) -> Iterable[CaptionedImage | Failure]:
        return model.caption([_decoded(example) for example in batch])

    def get_num_bytes(self, batch: Sequence[Any]) -> int:
        return sum(_pixels(example).nbytes for example in batch)

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        size = self._config.batch_size or _BATCH  # whole batches, since smaller ones take the same time
        return {"min_batch_size": size, "max_batch_size": size}


class _WithSchema(beam.PTransform):
    """Dicts to rows of an Arrow schema's columns and some more fields."""

    def __init__(self, schema: pa.Schema, fields: Mapping[str, Any]) -> None:
        super().__init__()
        self._types = [(column.name, _TYPES[column.type]) for column in schema] + list(fields.items())

    def expand(self, pcoll: beam.PCollection[Row]) -> beam.PCollection[beam.Row]:
        names = [name for name, _ in self._types]
        return pcoll | beam.Map(_as_row, names).with_output_types(RowTypeConstraint.from_fields(self._types))


def _as_row(row: Row, names: Sequence[str]) -> beam.Row:
    values = {name: row.get(name) for name in names}
    for name, value in values.items():
        if isinstance(value, datetime.datetime):
            values[name] = Timestamp.from_utc_datetime(value.astimezone(datetime.timezone.utc))
    return beam.Row(**values)


def _config(user: str, known: Sequence[str], options: Mapping[str, Any]) -> JobConfig:
    """The options as the job has them; it has no inputs and no output."""
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(known)}"
            raise TypeError(f"{user} has no option {name}{hint}")
    given = dict(options)
    prompts = tuple(Prompt(name, text) for name, text in given.pop("prompts", {}).items())
    sizes = {name: given.pop(name) for name in ("min_bytes", "max_bytes") if name in given}
    for name in ("allow_schemes", "allow_root", "allow_buckets"):
        if isinstance(given.get(name, ()), str):
            raise TypeError(f"{name} must be a list, not {given[name]!r}")
        given[name] = tuple(given.get(name, ()))
    carried = tuple(dict.fromkeys(name for prompt in prompts for name in prompt.columns))
    return JobConfig(
        inputs=(), output="", prompts=prompts, carry_columns=carried, filters=Filters(**sizes), **given
    ).with_absolute_paths()


def _pixels(example: Any) -> npt.NDArray[np.uint8]:
    pixels: npt.NDArray[np.uint8] = example.pixels if hasattr(example, "pixels") else example
    return pixels


def _decoded(example: Any) -> DecodedImage:
    if isinstance(example, DecodedImage):
        return example
    pixels = _pixels(example)
    height, width, _ = pixels.shape
    return DecodedImage(ImageInput(""), pixels, width, height, "")
