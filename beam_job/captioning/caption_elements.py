"""The DoFn of `CaptionImages`: takes an element and emits its row, with the element's timestamp and windows."""

from __future__ import annotations

import dataclasses
import queue
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput
from apache_beam.utils.windowed_value import WindowedValue

from beam_job.captioning.budgets import FailureBudget
from beam_job.captioning.caption_shards import batch_size_of, has_gpu, open_captioner
from beam_job.captioning.captioners import AnyCaptioner, model_version
from beam_job.captioning.element_engine import ElementEngine, OpenElement
from beam_job.captioning.engines import ENGINES
from beam_job.captioning.progress_file import ProgressFile
from beam_job.config import JobConfig
from beam_job.inputs.lists import RESERVED_COLUMNS
from beam_job.output.tables import caption_table, unfilled_columns
from beam_job.records import METRIC_NAMESPACE, CaptionedImage, Failure
from beam_job.storage import OPTIONS

FAILURES = "failures"
_AHEAD = 512  # elements under way in a bundle, and at least so many batches:
_BATCHES_AHEAD = 4


class InvalidElementError(ValueError):
    """An element is no URI, and no dict that has one and whose fields can be carried."""


class CaptionElements(beam.DoFn):
    """Captions elements while the next ones are fetched and decoded; a bundle ends when all its elements have rows.

    Args:
      config: where images may be read, how they are captioned, and the limits.
    """

    def __init__(self, config: JobConfig) -> None:
        self._config = config
        self._captioned = Metrics.counter(METRIC_NAMESPACE, "captions")
        self._failed = Metrics.counter(METRIC_NAMESPACE, FAILURES)

    def setup(self) -> None:
        self._engine = self._acquire_engine()

    def start_bundle(self) -> None:
        if self._engine.has_failed:  # with another bundle, or with this one, which is tried again
            failed, self._engine = self._engine, self._acquire_engine()
            ENGINES.release(failed)
        _, _, self._batch_size = self._engine.ran_with
        self._ahead = max(_AHEAD, _BATCHES_AHEAD * self._batch_size)
        self._under_way = 0
        # A new one for each bundle: an earlier bundle that was given up may still have elements under way.
        self._finished: queue.SimpleQueue[Future[OpenElement]] = queue.SimpleQueue()

    def process(
        self,
        element: Any,
        timestamp: Any = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
        pane: Any = beam.DoFn.PaneInfoParam,
    ) -> Iterator[WindowedValue | TaggedOutput]:
        context = (timestamp, (window,), pane)
        try:
            uri, fields = parse_element(element, self._config)
        except InvalidElementError as error:
            yield self._failure_row(Failure.of(_uri_of(element), "list", error, retry_when=OPTIONS), {}, context)
            return
        opened = OpenElement(uri, fields, context)
        self._under_way += 1
        opened.done.add_done_callback(self._finished.put)
        self._engine.submit_group(opened)
        if self._under_way > self._ahead:
            yield from self._rows(left=self._ahead - self._batch_size)

    def finish_bundle(self) -> Iterator[WindowedValue | TaggedOutput]:
        yield from self._rows(left=0)

    def teardown(self) -> None:
        ENGINES.release(self._engine)

    def _rows(self, left: int) -> Iterator[WindowedValue | TaggedOutput]:
        """Rows of the elements that are done by now, waiting until no more than `left` are under way."""
        done: list[OpenElement] = []
        while self._under_way > left or (self._under_way and not self._finished.empty()):
            done.append(self._finished.get().result())
            self._under_way -= 1
        captioned = [(each, each.outcome) for each in done if isinstance(each.outcome, CaptionedImage)]
        rows = caption_rows([outcome for _, outcome in captioned], self._engine.model_version, self._config)
        for (each, _), row in zip(captioned, rows, strict=True):
            self._captioned.inc()
            yield WindowedValue(row | dict(each.fields), *_placed(each.context))
        for each in done:
            if isinstance(each.outcome, Failure):
                yield self._failure_row(each.outcome, each.fields, each.context)

    def _failure_row(self, failure: Failure, fields: Mapping[str, Any], context: Any) -> TaggedOutput:
        self._failed.inc()
        row = dataclasses.asdict(failure) | dict(fields)
        return TaggedOutput(FAILURES, WindowedValue(row, *_placed(context)))

    def _acquire_engine(self) -> ElementEngine:
        return ENGINES.acquire((CaptionElements, self._config), self._open_engine)

    def _open_engine(self, failed: ElementEngine | None) -> ElementEngine:
        """An engine with the captioner of the failed one, if that is free: a device may not hold a second model."""
        config, progress = self._config, ProgressFile(None)
        captioner: AnyCaptioner | None = failed.take_captioner() if failed else None
        if captioner is None:
            captioner = open_captioner(config, model_version(config), progress.log_info)
        # Of a stream nobody knows how many images there will be, so no share of failures ends it.
        failures = FailureBudget(max_ratio=1, inputs=0)
        batch_size = batch_size_of(config, captioner)
        return ElementEngine(config, captioner, batch_size, has_gpu(config, captioner), progress, failures)


def caption_rows(captioned: list[CaptionedImage], version: str, config: JobConfig) -> list[dict[str, Any]]:
    """The rows of `captions/`, as Python values, without columns that would be null for the lack of an option.

    Elements need no common schema, and sinks such as BigQuery refuse a list that is null.
    """
    several = config.decoding.num_captions > 1
    table = caption_table(captioned, version, several, None, config.min_score, config.prompts)
    unfilled = unfilled_columns(several, config.min_score is not None)
    rows: list[dict[str, Any]] = table.drop_columns(unfilled).to_pylist()
    return rows


def parse_element(element: Any, config: JobConfig) -> tuple[str, dict[str, Any]]:
    """An element's URI, and its other fields.

    Args:
      element: a URI, or a dict or schema row with a field `uri`.
      config: its prompts name fields that must be there.

    Raises:
      InvalidElementError: it is none of these, or a field cannot be carried.
    """
    if isinstance(element, str):
        element = {"uri": element}
    elif hasattr(element, "_asdict"):  # beam.Row and named tuples
        element = element._asdict()
    if not isinstance(element, Mapping):
        raise InvalidElementError(f"an element must be a URI or a dict with uri, not {element!r:.80}")
    fields = dict(element)
    uri = fields.pop("uri", None)
    if not isinstance(uri, str) or not uri:
        raise InvalidElementError(f"an element's uri must be text, not {uri!r:.80} (it has {list(element)!r:.80})")
    if not _is_text(uri):
        raise InvalidElementError(f"an element's uri is not valid Unicode: {uri!r:.80}")
    own = {name for prompt in config.prompts for name in prompt.own_columns} | RESERVED_COLUMNS
    for name in fields:
        if not isinstance(name, str) or name.lower() in own:
            raise InvalidElementError(f"the field {name!r:.80} is a column of the output; carry it under another name")
    for name in config.carry_columns:
        if name not in fields:
            raise InvalidElementError(f"an element has no field {name!r}, which the prompt names")
    return uri, fields


def _uri_of(element: Any) -> str:
    """What the row of an invalid element has as its URI."""
    uri = element if isinstance(element, str) else element.get("uri") if isinstance(element, Mapping) else None
    return uri.encode("utf-8", "backslashreplace").decode() if isinstance(uri, str) else ""


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _placed(context: Any) -> tuple[Any, ...]:
    """The timestamp, a copy of the windows, which Beam may change, and the pane."""
    timestamp, windows, pane = context
    return timestamp, tuple(windows), pane
