"""Standard caption metrics, computed by `pycocoevalcap`.

Source: X. Chen et al. (2015), "Microsoft COCO Captions: Data Collection and Evaluation Server".
"""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from model.vocabulary import standardize

Captions = Mapping[str, Sequence[str]]


class Scores(NamedTuple):
    """Scores of captions, each times 100.

    Attributes:
      metrics: by metric name.
      cider: CIDEr of each image; the metric is their mean.
    """

    metrics: dict[str, float]
    cider: dict[str, float]


class MetricsError(RuntimeError):
    """A program that a metric needs is not installed; the message says how to install it."""


def quick_cider(references: Captions, candidates: Captions) -> float:
    """CIDEr times 100 on words of `standardize`, for use in training: without Java, in a second for 1,000 images."""
    try:
        from pycocoevalcap.cider.cider import Cider
    except ImportError as error:
        raise MetricsError("metrics need pycocoevalcap: pip install 'caption-images[train]'") from error
    score, _ = Cider().compute_score(_standardized(references), _standardized(candidates))
    return 100.0 * float(score)


def caption_metrics(references: Captions, candidates: Captions) -> Scores:
    """BLEU-1 to 4, METEOR, ROUGE-L and CIDEr (CIDEr-D, as is usual), on words of the PTB tokenizer.

    Args:
      references: human captions by image.
      candidates: one caption for each image of `references`.

    Raises:
      MetricsError: pycocoevalcap or Java is not installed.
    """
    if shutil.which("java") is None:
        raise MetricsError("the PTB tokenizer and METEOR need Java: apt-get install default-jre-headless, or similar")
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.meteor.meteor import Meteor
        from pycocoevalcap.rouge.rouge import Rouge
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
    except ImportError as error:
        raise MetricsError("metrics need pycocoevalcap: pip install 'caption-images[evaluate]'") from error
    tokenizer = PTBTokenizer()
    truth, said = (tokenizer.tokenize(_as_coco(captions)) for captions in (references, candidates))
    with contextlib.redirect_stdout(io.StringIO()):  # the scorers print their own progress
        bleu, _ = Bleu(4).compute_score(truth, said)
        with (scorer := Meteor()).meteor_p as java:  # the scorer itself never closes its pipes
            meteor, _ = scorer.compute_score(truth, said)
            java.kill()
        rouge, _ = Rouge().compute_score(truth, said)
        cider, cider_of_each = Cider().compute_score(truth, said)
    names = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
    values = zip(names, (*bleu, meteor, rouge, cider), strict=True)
    return Scores(
        {name: 100.0 * float(value) for name, value in values},
        {image: 100.0 * float(value) for image, value in zip(truth, cider_of_each, strict=True)},
    )


def by_fifths(scores: Sequence[float], values: Sequence[float]) -> list[float]:
    """Sorts images by `scores`, splits them into fifths, and returns the mean of `values` in each, lowest scores first.

    With the captions' scores and their CIDEr, this shows whether a score predicts quality.
    """
    fifths = np.array_split(np.argsort(scores, kind="stable"), 5)
    return [float(np.mean(np.asarray(values)[fifth])) for fifth in fifths]


def _as_coco(captions: Captions) -> dict[str, list[dict[str, str]]]:
    return {image: [{"caption": text} for text in texts] for image, texts in captions.items()}


def _standardized(captions: Captions) -> dict[str, list[str]]:
    return {image: [" ".join(standardize(text)) for text in texts] for image, texts in captions.items()}
