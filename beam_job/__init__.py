"""An offline batch job on Apache Beam that captions images in folders or buckets and writes the captions to Parquet.

    from beam_job import JobConfig, run_job

    summary = run_job(JobConfig(inputs=("photos",), output="captions"))

In your own pipeline:

    results = uris | CaptionImages(allow_buckets=["gs://photos"])

The names below are imported lazily: `import beam_job` imports neither Beam nor TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beam_job.cli.job import run_job as run_job
    from beam_job.cli.run_pipeline import JobError as JobError
    from beam_job.config import JobConfig as JobConfig
    from beam_job.inputs.endpoint import Endpoint as Endpoint
    from beam_job.inputs.filters import Filters as Filters
    from beam_job.inputs.prompts import Prompt as Prompt
    from beam_job.records import Failure as Failure
    from beam_job.transforms import CaptionImages as CaptionImages
    from beam_job.transforms import CaptionModelHandler as CaptionModelHandler
    from model import Decoding as Decoding

__version__ = "0.1.0"
_MODULES = {
    "CaptionImages": "beam_job.transforms",
    "CaptionModelHandler": "beam_job.transforms",
    "Decoding": "model",
    "Endpoint": "beam_job.inputs.endpoint",
    "Failure": "beam_job.records",
    "Filters": "beam_job.inputs.filters",
    "JobConfig": "beam_job.config",
    "JobError": "beam_job.cli.run_pipeline",
    "Prompt": "beam_job.inputs.prompts",
    "run_job": "beam_job.cli.job",
}
__all__ = [
    "CaptionImages",
    "CaptionModelHandler",
    "Decoding",
    "Endpoint",
    "Failure",
    "Filters",
    "JobConfig",
    "JobError",
    "Prompt",
    "__version__",
    "run_job",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
