"""Beam's counters and distributions, for the runner's monitoring page and for the summary's times and sizes.

The summary's row counts come from the files, not from here: a runner may know attempted values only, in which a
repeated attempt counts twice, and the counters of a killed run are gone. Times, bytes and batch fill are in no file:
they come from here on every runner, and describe the last attempt of a resumed run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from apache_beam.metrics import Metrics
from apache_beam.metrics.metric import MetricResults
from apache_beam.runners.runner import PipelineResult

from beam_job.output.shard_report import ShardReport
from beam_job.output.sink import committed_shards, read_counts
from beam_job.planning.run import Run
from beam_job.records import METRIC_NAMESPACE

_BYTES, _FILL, _SHARD_IMAGES = "image_bytes", "batch_fill_percent", "shard_images"
_BATCHES = "batches"
_MILLISECONDS = "_milliseconds"
_CAPTIONER = "captioner "  # prefix of the counters of the captioner itself
_RAN_WITH = "shards with"  # prefix of the counters of engine, precision and batch size


@dataclass(frozen=True)
class ShardResult:
    """A committed shard, and its timings.

    Attributes:
      report: its row counts and failures.
      seconds: spent on it by stage ("fetch", "decode", "caption" and "write"), summed over threads.
      model_seconds: of the model's thread since an earlier shard's result, as `StageClock.take` returns them.
      image_bytes: of each image that was fetched, as stored.
      batch_fill: of each batch that began with an image of this shard, in percent of its size.
      counts: what the captioner has counted since an earlier shard's result, by name.
    """

    report: ShardReport
    seconds: Mapping[str, float]
    model_seconds: Mapping[str, float]
    image_bytes: Sequence[int]
    batch_fill: Sequence[int]
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RanWith:
    """What shards were captioned with.

    Attributes:
      engine: "litert", "openvino", "tensorflow", or "xla" for TensorFlow compiled for a GPU.
      precision: what the encoder computed in.
      batch_size: images at once, when the shard was done.
      shards: how many.
    """

    engine: str
    precision: str
    batch_size: int
    shards: int


@dataclass(frozen=True)
class RunMetrics:
    """The metrics of a run, or of the last attempt of a resumed run.

    Attributes:
      seconds_by_stage: "fetch", "decode", "caption" and "write", summed over threads and workers; "model_fetch" and so
        on is the model's waiting, "model_model" its work.
      bytes_fetched: of all images, as stored.
      batch_fill: images in a batch by its capacity, on average; None where the model was not called.
      ran_with: what the shards were captioned with.
      images: captions and failures of this attempt; None where the runner did not report them.
      counts: what the captioner has counted, by name.
    """

    seconds_by_stage: Mapping[str, float] = field(default_factory=dict)
    bytes_fetched: int = 0
    batch_fill: float | None = None
    ran_with: Sequence[RanWith] = ()
    images: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)


def count_report(report: ShardReport) -> None:
    """Counts the rows of a committed shard, whichever attempt wrote it: at the end they are all of the run's."""
    _add("images", report.captions + len(report.failures))
    _add("captions", report.captions)
    _add("failures", len(report.failures))
    for failure in report.failures:
        _add(f"failures_{failure.stage}_{failure.error_type}", 1)


def count_work(result: ShardResult, engine: str, precision: str, batch_size: int) -> None:
    """Counts the time and bytes of this attempt at a shard, and what it was captioned with."""
    _add(f"{_RAN_WITH} {engine} {precision} {batch_size}", 1)
    images = result.report.captions + len(result.report.failures)
    of_the_model = {f"model_{stage}": seconds for stage, seconds in result.model_seconds.items()}
    for stage, seconds in {**result.seconds, **of_the_model}.items():
        _add(f"{stage}{_MILLISECONDS}", round(1000 * seconds))
    for name, count in result.counts.items():
        _add(f"{_CAPTIONER}{name}", count)
    for name, values in ((_BYTES, result.image_bytes), (_FILL, result.batch_fill), (_SHARD_IMAGES, [images])):
        for value in values:
            Metrics.distribution(METRIC_NAMESPACE, name).update(value)


def shard_work(seconds: Mapping[str, float], image_bytes: Sequence[int], batch_fill: Sequence[int]) -> dict[str, int]:
    """What `count_work` counts of a shard, as far as it is known before the shard is written."""
    times = {f"{stage}{_MILLISECONDS}": round(1000 * took) for stage, took in seconds.items()}
    return times | {_BYTES: sum(image_bytes), _FILL: sum(batch_fill), _BATCHES: len(batch_fill)}


def read_shard_metrics(run: Run) -> RunMetrics:
    """The metrics of all attempts of a run, from its shards' files: for runners without metrics of their own.

    Times of writing and of the model's waiting are unknown there.
    """
    total: Counter[str] = Counter()
    for counts in read_counts(run, committed_shards(run)):
        total += counts.work
    return RunMetrics(
        seconds_by_stage={
            name.removesuffix(_MILLISECONDS): value / 1000
            for name, value in total.items()
            if name.endswith(_MILLISECONDS)
        },
        bytes_fetched=total[_BYTES],
        batch_fill=total[_FILL] / total[_BATCHES] / 100 if total[_BATCHES] else None,
    )


def counters(result: PipelineResult) -> dict[str, int]:
    """The job's counters by name."""
    return _by_name(result, MetricResults.COUNTERS)


def read_metrics(result: PipelineResult) -> RunMetrics:
    """Reads what `count_work` counted, over all workers."""
    counted = counters(result)
    seconds = {
        name.removesuffix(_MILLISECONDS): value / 1000
        for name, value in counted.items()
        if name.endswith(_MILLISECONDS)
    }
    distributions = _by_name(result, MetricResults.DISTRIBUTIONS)
    sizes, fill, images = (distributions.get(name) for name in (_BYTES, _FILL, _SHARD_IMAGES))
    return RunMetrics(
        seconds_by_stage=seconds,
        bytes_fetched=sizes.sum if sizes else 0,
        batch_fill=fill.mean / 100 if fill and fill.count else None,
        ran_with=_ran_with(counted),
        images=images.sum if images else None,
        counts={name.removeprefix(_CAPTIONER): value for name, value in counted.items() if name.startswith(_CAPTIONER)},
    )


def _ran_with(counted: Mapping[str, int]) -> list[RanWith]:
    found = []
    for name, shards in sorted(counted.items()):
        if name.startswith(_RAN_WITH):
            engine, precision, batch_size = name.removeprefix(_RAN_WITH).strip().rsplit(maxsplit=2)
            found.append(RanWith(engine, precision, int(batch_size), shards))
    return found


def _add(name: str, amount: int) -> None:
    Metrics.counter(METRIC_NAMESPACE, name).inc(amount)


def _by_name(result: PipelineResult, kind: str) -> dict[str, Any]:
    found = result.metrics().query()[kind]
    return {
        metric.key.metric.name: metric.result or 0
        for metric in found
        if metric.key.metric.namespace == METRIC_NAMESPACE
    }
