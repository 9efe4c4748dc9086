"""CaptionModelHandler in Beam's RunInference."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.ml.inference.base import KeyedModelHandler, RunInference
from apache_beam.testing.util import assert_that

from beam_job import CaptionModelHandler
from beam_job.records import CaptionedImage, DecodedImage, Failure, ImageInput
from tests.elements import in_process
from tests.fakes import FakeCaptioner


def test_run_inference_over_decoded_images(loaded: list[FakeCaptioner]) -> None:
    """Keys are kept; an image is pixels, or a decoded image with its URI."""
    pixels = [np.full((8, 8, 3), brightness, np.uint8) for brightness in range(10, 30)]
    image = DecodedImage(ImageInput("gs://b/a.png"), pixels[0], 640, 480, "1")

    def check(found: list[Any]) -> None:
        results = dict(found)
        assert len(found) == len(results) == 21
        assert all(isinstance(result, CaptionedImage) for result in results.values())
        assert {key: result.captions[0].text for key, result in results.items()} == {
            **{number: f"brightness {10 + number}" for number in range(20)},
            "image": "brightness 10",
        }
        assert (results["image"].uri, results["image"].width) == ("gs://b/a.png", 640)

    with in_process() as pipeline:
        keyed = pipeline | beam.Create([*enumerate(pixels), ("image", image)])
        results = keyed | RunInference(KeyedModelHandler(CaptionModelHandler(batch_size=8)))
        assert_that(results, check)
    assert len(loaded) == 1


def test_inference_of_a_bad_image_is_a_failure() -> None:
    from beam_job.captioning.batches import BatchCaptioner

    handler = CaptionModelHandler()
    model = BatchCaptioner(FakeCaptioner(poison=12), 4, print)
    pixels = [np.full((8, 8, 3), brightness, np.uint8) for brightness in (11, 12, 13)]
    results = list(handler.run_inference(pixels, model))
    assert [type(result) for result in results] == [CaptionedImage, Failure, CaptionedImage]
    assert handler.get_num_bytes(pixels) == 3 * 8 * 8 * 3
