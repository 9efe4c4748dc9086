"""The part of a captioner's version that covers prompts and decoding options."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from beam_job.config import JobConfig


def caption_digest(config: JobConfig, **others: Any) -> str:
    """Eight letters that differ where prompts, decoding or `others` (JSON types) do.

    Args:
      config: the job.
      others: whatever else the captions of this captioner depend on.
    """
    content = {
        "prompts": [dataclasses.asdict(prompt) for prompt in config.prompts],
        "decoding": config.decoding.effective_options,
        "max_new_tokens": config.max_new_tokens,
        "max_side": config.max_side,
        **others,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
