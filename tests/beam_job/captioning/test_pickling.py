"""What travels to workers survives the way, as Beam packs it."""

from __future__ import annotations

import datetime
import pickle

import apache_beam as beam
import pytest
from apache_beam.internal import pickler

from beam_job.captioning.caption_shards import CaptionShards
from beam_job.config import JobConfig
from beam_job.loading.images import FetchedImage
from beam_job.output.shard_report import ShardReport
from beam_job.pipeline import build_pipeline
from beam_job.planning.plan import Plan
from beam_job.planning.run import Run, RunManifest
from beam_job.records import CaptionedImage, Failure, ImageInput
from model import Caption, CaptionerConfig, Decoding

NOON = datetime.datetime(2026, 1, 2, 12, tzinfo=datetime.timezone.utc)
FAILURE = Failure("x.jpg", "fetch", "NotFound", "gone", False, None, NOON)


@pytest.mark.parametrize(
    "record",
    [
        ImageInput("x.jpg", "v1"),
        FetchedImage(ImageInput("x.jpg"), b"\xff\xd8", "v1"),
        CaptionedImage("x.jpg", (Caption("a dog", -0.5),), 3, 2, "v1", NOON),
        FAILURE,
        ShardReport(1, (FAILURE,)),
        Run("gs://bucket/out", "r1"),
        Plan(3, 2),
        RunManifest("model-1", {}, {}, 3, 2, 1),
        JobConfig(("photos",), "out", decoding=Decoding("greedy")),
        CaptionerConfig(),
    ],
    ids=lambda record: type(record).__name__,
)
def test_records(record: object) -> None:
    assert pickle.loads(pickle.dumps(record)) == record
    assert pickler.loads(pickler.dumps(record)) == record


def test_the_dofn_travels_light() -> None:
    packed = pickler.dumps(CaptionShards(JobConfig(("photos",), "out"), Run("out", "r1")))
    assert len(packed) < 5_000
    assert isinstance(pickler.loads(packed), CaptionShards)


def test_only_shard_numbers_cross_stages() -> None:
    pipeline = beam.Pipeline(runner="FnApiRunner")
    build_pipeline(pipeline, JobConfig(("photos",), "out"), Run("out", "r1"), Plan(1_000_000, 1954), None)
    # A million images make a graph of some kilobytes: their URIs are not in it.
    assert len(pipeline.to_runner_api().SerializeToString()) < 100_000


@pytest.mark.parametrize("stage", ["download", ""])
def test_a_failure_names_a_known_stage(stage: str) -> None:
    with pytest.raises(ValueError, match="stage must be one of list, fetch, decode, caption"):
        Failure("x.jpg", stage, "Error", "", False)
