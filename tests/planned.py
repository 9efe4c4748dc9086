"""A run whose plan is stored, so that workers can begin: grey images, and some that are not there."""

from __future__ import annotations

import pyarrow as pa
from PIL import Image

from beam_job.config import JobConfig
from beam_job.inputs.lists import LISTING_FIELDS
from beam_job.planning.plan import Plan, write_plan
from beam_job.planning.recorded_config import request_of
from beam_job.planning.run import Run, RunManifest
from beam_job.storage import join, storage_for
from model import DEFAULT_BUNDLE, check_bundle
from tests.images import encode


def planned_run(folder: str, images: int, missing: int = 0, **options: object) -> tuple[JobConfig, Run, Plan]:
    """Images of the brightnesses 10, 11, ... in `folder`, of which the last `missing` were deleted after the listing.

    Shards hold four images and batches three, unless `options` of JobConfig say otherwise.
    """
    uris = [join(folder, "photos", f"{10 + number}.png") for number in range(images)]
    for number, uri in enumerate(uris[: images - missing]):
        storage_for(uri).write(uri, grey(10 + number))
    config = JobConfig(
        **{
            "inputs": (join(folder, "photos"),),
            "output": join(folder, "out"),
            "shard_size": 4,
            "batch_size": 3,
            "fetch_threads": 3,
            "decode_threads": 2,
            **options,
        }
    )
    run = Run(config.output, "r1")
    unknown = [None] * images
    columns = {"uri": uris} | {field.name: unknown for field in LISTING_FIELDS if field.name != "uri"}
    plan = write_plan(run, [pa.table(columns, schema=pa.schema(LISTING_FIELDS))], config.shard_size)
    note = RunManifest(check_bundle(DEFAULT_BUNDLE), {}, request_of(config), plan.inputs, plan.shards, 0)
    run.storage.write(run.manifest, note.to_json())
    return config, run, plan


def grey(brightness: int) -> bytes:
    """A PNG of one brightness."""
    return encode(Image.new("RGB", (30, 20), (brightness,) * 3), "PNG")
