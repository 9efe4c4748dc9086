"""Batches that fail: which images pay for it, what is remembered, and what people are told."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from beam_job.captioning.batches import BatchCaptioner
from beam_job.cli.command import main
from beam_job.records import CaptionedImage, DecodedImage, Failure, ImageInput
from model import Caption
from tests.fakes import FakeCaptioner


def images(*brightnesses: int) -> list[DecodedImage]:
    return [
        DecodedImage(ImageInput(f"{b}.png"), np.full((8, 8, 3), b, np.uint8), 30, 20, f"v{b}") for b in brightnesses
    ]


def said(rows: list[CaptionedImage | Failure]) -> list[str]:
    """`brightness 10` for a caption, `10.png!` for a failure."""
    return [f"{row.uri}!" if isinstance(row, Failure) else row.captions[0].text for row in rows]


def captions(*brightnesses: int) -> list[str]:
    return [f"brightness {b}" for b in brightnesses]


class Lines(list):
    """What people were told."""

    def __call__(self, line: str) -> None:
        self.append(line)


# What an allocation that no machine can serve raised.
NO_MEMORY = tf.errors.ResourceExhaustedError(
    None,
    None,
    "OOM when allocating tensor with shape[4398046511104] and type float on "
    "/job:localhost/replica:0/task:0/device:CPU:0 by allocator mklcpu [Op:RandomUniform] name: ",
)
OUT_OF_MEMORY = [
    pytest.param(NO_MEMORY, id="TensorFlow"),
    pytest.param(RuntimeError(f"worker 3: {NO_MEMORY.message}"), id="TensorFlow's words alone"),
    pytest.param(tf.errors.InternalError(None, None, "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), id="XLA"),
    pytest.param(RuntimeError("Failed to create handle: CUBLAS_STATUS_ALLOC_FAILED"), id="cuBLAS"),
    pytest.param(MemoryError(), id="host"),
]


def test_two_threads_that_run_out_of_memory_at_once_halve_the_batch_once() -> None:
    """Both have begun with the same size before either learns that it is too large."""
    both = threading.Barrier(2)

    class Full(FakeCaptioner):
        def caption(self, images: np.ndarray) -> list:
            if len(images) == 8:
                both.wait(60)
            return super().caption(images)

    captioner, told = Full(fits=4, out_of_memory=NO_MEMORY), Lines()
    batches = BatchCaptioner(captioner, 8, told)
    with ThreadPoolExecutor(2) as threads:
        found = [*threads.map(lambda first: said(batches.caption(images(*range(first, first + 8)))), (10, 30))]
    assert found == [[f"brightness {b}" for b in range(first, first + 8)] for first in (10, 30)]
    assert (batches.size, len(told)) == (4, 1)


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_a_batch_too_large_for_the_memory_is_halved_for_the_rest_of_the_run(error: Exception) -> None:
    captioner, told = FakeCaptioner(fits=3, out_of_memory=error), Lines()
    batches = BatchCaptioner(captioner, 8, told)
    assert said(batches.caption(images(*range(10, 18)))) == captions(*range(10, 18))
    assert said(batches.caption(images(*range(20, 28)))) == captions(*range(20, 28))
    assert batches.size == 2
    # 8 and 4 fail once each; from then on every batch, padded or not, has the size that fits.
    assert [len(batch) for batch in captioner.batches] == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    assert told == [
        "the device ran out of memory with 8 images in a batch; continuing with 4 (--batch_size=4 avoids this)",
        "the device ran out of memory with 4 images in a batch; continuing with 2 (--batch_size=2 avoids this)",
    ]


def test_a_batch_of_odd_size_goes_down_to_single_images() -> None:
    batches = BatchCaptioner(FakeCaptioner(fits=1, out_of_memory=NO_MEMORY), 5, Lines())
    assert said(batches.caption(images(10, 11, 12))) == captions(10, 11, 12)
    assert batches.size == 1


def test_an_image_that_does_not_fit_alone_is_tried_another_night() -> None:
    told = Lines()
    rows = BatchCaptioner(FakeCaptioner(fits=0, out_of_memory=NO_MEMORY), 2, told).caption(images(10, 11))
    assert said(rows) == ["10.png!", "11.png!"]
    assert {(row.stage, row.error_type, row.transient) for row in rows} == {("caption", "ResourceExhaustedError", True)}
    assert len(told) == 1


def test_a_bad_image_is_found_and_the_size_stays() -> None:
    captioner, told = FakeCaptioner(poison=13), Lines()
    batches = BatchCaptioner(captioner, 8, told)
    rows = batches.caption(images(*range(10, 17)))
    assert said(rows) == [*captions(10, 11, 12), "13.png!", *captions(14, 15, 16)]
    assert (rows[3].error_message, rows[3].transient, rows[3].object_version) == (
        "cannot digest this image",
        False,
        "v13",
    )
    assert {len(batch) for batch in captioner.batches} == {8}
    assert told == []


def test_a_bad_image_is_found_where_the_memory_is_short_too() -> None:
    batches = BatchCaptioner(FakeCaptioner(poison=13, fits=5), 8, Lines())
    assert said(batches.caption(images(*range(10, 18)))) == [
        *captions(10, 11, 12),
        "13.png!",
        *captions(*range(14, 18)),
    ]
    assert batches.size == 4


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        pytest.param(tf.errors.UnavailableError(None, None, "the device is gone"), True, id="unavailable"),
        pytest.param(tf.errors.InternalError(None, None, "CUDA_ERROR_LAUNCH_FAILED"), True, id="CUDA"),
        pytest.param(RuntimeError("cuDNN failed to initialize"), True, id="cuDNN"),
        pytest.param(tf.errors.InvalidArgumentError(None, None, "shapes differ"), False, id="invalid"),
        pytest.param(ValueError("not an image"), False, id="any other"),
    ],
)
def test_a_failure_may_pass_where_the_device_is_to_blame(error: Exception, transient: bool) -> None:
    [row] = BatchCaptioner(FakeCaptioner(poison=10, error=error), 4, Lines()).caption(images(10))
    assert (row.error_type, row.transient) == (type(error).__name__, transient)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, -1e300, 3.5e38])
def test_a_score_that_is_no_number_is_a_failure_and_the_neighbours_keep_their_captions(score: float) -> None:
    captioner = FakeCaptioner(unscored={11: score}, num_captions=2)
    rows = BatchCaptioner(captioner, 4, Lines()).caption(images(10, 11, 12))
    assert said(rows) == ["brightness 10", "11.png!", "brightness 12"]
    assert (rows[1].stage, rows[1].error_type, rows[1].transient) == ("caption", "NonFiniteScoreError", False)
    assert f"the score of its caption is {score}" in rows[1].error_message
    assert len(captioner.batches) == 1  # no second try: the model would say the same


class Answers(FakeCaptioner):
    """Answers a fixed list to each batch."""

    def __init__(self, *answers: object) -> None:
        super().__init__()
        self.answers = list(answers)

    def caption(self, images: np.ndarray) -> list:
        return self.answers


DOG = (Caption("a dog", -0.5),)
CAT = (Caption("a cat", -0.7),)


def test_fewer_captions_than_asked_for_are_a_failure_and_more_are_cut() -> None:
    answers = Answers(DOG, DOG + CAT, DOG + CAT + DOG)
    rows = BatchCaptioner(answers, 3, Lines(), num_captions=2).caption(images(10, 11, 12))
    assert said(rows) == ["10.png!", "a dog", "a dog"]
    assert rows[0].error_message == "the captioner returned 1 captions, not --num_captions=2"
    assert [row.captions for row in rows[1:]] == [DOG + CAT] * 2


def test_a_text_keeps_its_lines_and_loses_what_databases_refuse() -> None:
    [row] = BatchCaptioner(Answers((Caption("a dog\nin the \0sun", -1.0),)), 1, Lines()).caption(images(10))
    assert row.captions[0].text == "a dog\nin the  sun"


@pytest.mark.parametrize("answers", [pytest.param(1, id="too few"), pytest.param(3, id="too many")])
def test_a_captioner_that_answers_another_number_of_times_loses_no_row(answers: int) -> None:
    rows = BatchCaptioner(Answers(*answers * [DOG]), 2, Lines()).caption(images(10, 11))
    assert said(rows) == ["10.png!", "11.png!"]
    assert {row.error_message for row in rows} == {f"the captioner returned {answers} results for 2 images"}
    assert {row.transient for row in rows} == {False}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        pytest.param((), "returned () instead of one or more model.Caption", id="no caption"),
        pytest.param("a dog", "returned 'a dog' instead of one or more model.Caption", id="text"),
        pytest.param(DOG[0], "returned Caption(text='a dog', score=-0.5) instead of one", id="not in a list"),
        pytest.param(
            (Caption(None, 0.0),), "returned (Caption(text=None, score=0.0),), which is not a text", id="None"
        ),
        pytest.param((Caption("a \udc80", 0.0),), "which is not a text with a score", id="no UTF-8"),
        pytest.param((Caption("a dog", "high"),), "which is not a text with a score", id="no number"),
        pytest.param((Caption("a dog", 10**400),), "which is not a text with a score", id="no float"),
        pytest.param((Caption(" \n", -1.0),), "a caption without words", id="no words"),
        pytest.param((Caption(b"a dog", -1.0),), "which is not a text with a score", id="bytes"),
    ],
)
def test_an_answer_that_is_no_caption_costs_its_image_alone(answer: object, message: str) -> None:
    rows = BatchCaptioner(Answers(DOG, answer), 2, Lines()).caption(images(10, 11))
    assert said(rows) == ["a dog", "11.png!"]
    assert message in rows[1].error_message
    assert (rows[1].stage, rows[1].error_type) == ("caption", "WrongAnswerError")


@pytest.mark.parametrize("verbose", [[], ["--verbose"]])
def test_a_run_on_a_small_device_ends_well_and_says_so_once(
    verbose: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "photos").mkdir()
    for brightness in range(10, 40):
        Image.new("L", (8, 8), brightness).save(tmp_path / "photos" / f"{brightness}.png")
    captioner = FakeCaptioner(fits=5, out_of_memory=NO_MEMORY)
    monkeypatch.setattr("beam_job.captioning.caption_shards.load_captioner", lambda *_: captioner)
    arguments = [f"--input={tmp_path}/photos", f"--output={tmp_path}/out", "--batch_size=8"]
    assert main([*arguments, "--shard_size=10", *verbose]) == 0
    error = capfd.readouterr().err
    assert error.count("the device ran out of memory with 8 images in a batch; continuing with 4") == 1
    assert "30 captions and 0 failures of 30 images" in error
