"""The tables of an output, `captions/` and `failures/`: their Arrow schemas, and their rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from beam_job.inputs.prompts import Prompt
from beam_job.records import CaptionedImage, Failure

LOW_CONFIDENCE = "low_confidence"
_TIME = pa.timestamp("ms", tz="UTC")
FAILURE_SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("stage", pa.string()),
        ("error_type", pa.string()),
        ("error_message", pa.string()),
        ("transient", pa.bool_()),
        ("object_version", pa.string()),
        ("failed_at", _TIME),
        ("retry_when", pa.string()),
    ]
)


def caption_schema(prompts: Sequence[Prompt] = ()) -> pa.Schema:
    """The columns of `captions/`: the same in every run, so that readers of one schema can read all of them.

    Only a prompt with a name has columns of its own, for its caption and its score.
    """
    named: list[tuple[str, pa.DataType]] = []
    for prompt in prompts:
        named += zip(prompt.own_columns, (pa.string(), pa.float32()), strict=False)
    return pa.schema(
        [
            ("uri", pa.string()),
            ("caption", pa.string()),
            ("score", pa.float32()),
            (LOW_CONFIDENCE, pa.bool_()),
            ("captions", pa.list_(pa.string())),
            ("scores", pa.list_(pa.float32())),
            *named,
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("object_version", pa.string()),
            ("model_version", pa.string()),
            ("captioned_at", _TIME),
        ]
    )


def unfilled_columns(several: bool, marked: bool) -> list[str]:
    """The columns of `captions/` that are null without several captions of an image, or without --min_score."""
    return [*([] if several else ["captions", "scores"]), *([] if marked else [LOW_CONFIDENCE])]


def caption_table(
    captioned: Sequence[CaptionedImage],
    model_version: str,
    several: bool,
    carried: pa.Table | None = None,
    min_score: float | None = None,
    prompts: Sequence[Prompt] = (),
    image_columns: Sequence[str] = (),
) -> pa.Table:
    """The rows of a captions file.

    Args:
      captioned: the images.
      model_version: the captioner's.
      several: whether to fill the columns `captions` and `scores`, which are null otherwise.
      carried: columns of the user's list, a row for each of `captioned`; they come last.
      min_score: where given, the column `low_confidence` says whether `score`, as stored, is lower; null without it and
        where there is no score.
      prompts: of the job, whose captions are each image's `by_prompt`.
      image_columns: of the job, whose values are each image's own.
    """
    columns = _caption_columns(captioned, model_version, several, prompts)
    schema = caption_schema(prompts)
    table = pa.table([pa.array(columns[column.name], column.type) for column in schema], schema)
    if min_score is not None:
        table = mark_low_scores(table, min_score)
    for name in image_columns:
        kind = pa.int64() if name == "bytes" else pa.string()
        table = table.append_column(name, pa.array([image.image_columns.get(name) for image in captioned], kind))
    return table if carried is None else _with_columns(table, carried)


def _caption_columns(
    captioned: Sequence[CaptionedImage], model_version: str, several: bool, prompts: Sequence[Prompt]
) -> dict[str, Sequence[Any]]:
    """The values of the columns of `caption_schema`."""
    columns: dict[str, Sequence[Any]] = {
        "uri": [image.uri for image in captioned],
        "caption": [image.captions[0].text for image in captioned],
        "score": [image.captions[0].score for image in captioned],
        LOW_CONFIDENCE: [None] * len(captioned),
        "captions": [[caption.text for caption in image.captions] if several else None for image in captioned],
        "scores": [[caption.score for caption in image.captions] if several else None for image in captioned],
        "width": [image.width for image in captioned],
        "height": [image.height for image in captioned],
        "object_version": [image.object_version for image in captioned],
        "model_version": [model_version] * len(captioned),
        "captioned_at": [image.captioned_at for image in captioned],
    }
    for place, prompt in enumerate(prompts):
        found = [image.by_prompt[place] for image in captioned]
        values = [caption.text for caption in found], [caption.score for caption in found]
        columns |= zip(prompt.own_columns, values, strict=False)
    return columns


def failure_table(failures: Sequence[Failure], carried: pa.Table) -> pa.Table:
    """The rows of a failures file. `carried`: columns of the user's list, a row for each failure; they come last."""
    rows = [dataclasses.asdict(failure) for failure in failures]
    return _with_columns(pa.Table.from_pylist(rows, FAILURE_SCHEMA), carried)


def mark_low_scores(captions: pa.Table, min_score: float) -> pa.Table:
    """The same rows, whose `low_confidence` says whether `score` is lower; null where there is no score."""
    place = captions.schema.get_field_index(LOW_CONFIDENCE)
    marks = pc.less(captions["score"], min_score)
    if place < 0:  # files of earlier versions
        return captions.add_column(captions.schema.get_field_index("score") + 1, LOW_CONFIDENCE, marks)
    return captions.set_column(place, LOW_CONFIDENCE, marks)


def _with_columns(table: pa.Table, others: pa.Table) -> pa.Table:
    for column in others.schema:
        table = table.append_column(column, others[column.name])
    return table
