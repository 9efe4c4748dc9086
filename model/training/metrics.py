"""Standard caption metrics, computed by `pycocoevalcap`.

Source: X. Chen et al. (2015), "Microsoft COCO Captions: Data Collection and Evaluation Server".
"""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from model.vocabulary import standardize

Captions = Mapping[str, Sequence[str]]
Array = npt.NDArray[np.float64]
_BLEU = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4")
_RESAMPLES = 1000


class Scores(NamedTuple):
    """Scores of captions, all times 100.

    Attributes:
      metrics: by the metric's name.
      cider: of each image; their mean is the metric.
      intervals: 95 % bootstrap interval of each metric, lowest and highest.
    """

    metrics: dict[str, float]
    cider: dict[str, float]
    intervals: dict[str, tuple[float, float]]


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

    The intervals are percentile bootstraps over the images (P. Koehn 2004, "Statistical Significance Tests for Machine
    Translation Evaluation"); document frequencies of CIDEr stay those of the whole set.

    Args:
      references: human captions by image.
      candidates: one caption for each image of `references`.

    Raises:
      MetricsError: pycocoevalcap or Java is not installed.
    """
    if shutil.which("java") is None:
        raise MetricsError("the PTB tokenizer and METEOR need Java: apt-get install default-jre-headless, or similar")
    try:
        from pycocoevalcap.bleu.bleu_scorer import BleuScorer
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.meteor.meteor import Meteor
        from pycocoevalcap.rouge.rouge import Rouge
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
    except ImportError as error:
        raise MetricsError("metrics need pycocoevalcap: pip install 'caption-images[evaluate]'") from error
    both = {("truth", image): texts for image, texts in references.items()}
    both |= {("said", image): texts for image, texts in candidates.items()}
    words = PTBTokenizer().tokenize(_as_coco(both))  # at once, since each call starts a Java process
    truth, said = ({image: words[of, image] for of, image in words if of == kind} for kind in ("truth", "said"))
    with contextlib.redirect_stdout(io.StringIO()):  # the scorers print their own progress
        bleu_scorer = BleuScorer(n=len(_BLEU))
        for image, texts in truth.items():
            bleu_scorer += (said[image][0], texts)
        bleu, _ = bleu_scorer.compute_score(option="closest")
        with (scorer := Meteor()).meteor_p as java:  # the scorer itself never closes its pipes
            meteor, meteor_of_each = scorer.compute_score(truth, said)
            java.kill()
        rouge, rouge_of_each = Rouge().compute_score(truth, said)
        cider, cider_of_each = Cider().compute_score(truth, said)
    values = zip((*_BLEU, "METEOR", "ROUGE-L", "CIDEr"), (*bleu, meteor, rouge, cider), strict=True)
    metrics = {name: 100.0 * float(value) for name, value in values}
    by_image = {"METEOR": meteor_of_each, "ROUGE-L": rouge_of_each, "CIDEr": cider_of_each}
    return Scores(
        metrics,
        {image: 100.0 * float(value) for image, value in zip(truth, cider_of_each, strict=True)},
        _intervals(metrics, bleu_scorer.ctest, by_image),
    )


def _intervals(
    metrics: Mapping[str, float], bleu_counts: Sequence[Mapping[str, Any]], by_image: Mapping[str, Sequence[float]]
) -> dict[str, tuple[float, float]]:
    """The bootstrap interval of each metric.

    Args:
      metrics: of the whole set, times 100.
      bleu_counts: see `_bleu_of_draws`.
      by_image: the other metrics of each image, not times 100, in the same order.
    """
    draws = _bootstrap_draws(len(bleu_counts))
    resampled = dict(zip(_BLEU, _bleu_of_draws(draws, bleu_counts), strict=True))
    for name, of_each in by_image.items():
        of_images = np.asarray(of_each, float)
        # METEOR of a set is not quite the mean over its images: only the deviation from the mean is resampled.
        resampled[name] = metrics[name] + 100.0 * (draws @ of_images / len(of_images) - of_images.mean())
    return {name: _interval(values) for name, values in resampled.items()}


def _bootstrap_draws(images: int) -> Array:
    """How often each image is drawn in each resample of the set: float[R, N]."""
    rng = np.random.default_rng(0)
    return rng.multinomial(images, np.full(images, 1.0 / images), size=_RESAMPLES).astype(float)


def _bleu_of_draws(draws: Array, counts: Sequence[Mapping[str, Any]]) -> Array:
    """BLEU-1 to 4, times 100, of each resample: float[4, R].

    Args:
      draws: float[R, N].
      counts: of each image the BLEU scorer's n-gram counts and lengths.
    """
    correct, guess = (draws @ np.array([image[key] for image in counts], float) for key in ("correct", "guess"))
    ours = draws @ np.array([image["testlen"] for image in counts], float)
    theirs = draws @ np.array([_closest_length(image) for image in counts], float)
    logs = np.log(np.maximum(correct, 1e-15)) - np.log(np.maximum(guess, 1e-9))
    means = np.cumsum(logs, axis=1) / np.arange(1, len(_BLEU) + 1)
    brevity = np.minimum(0.0, 1.0 - theirs / np.maximum(ours, 1e-9))
    return 100.0 * np.exp(means + brevity[:, None]).T


def _closest_length(counts: Mapping[str, Any]) -> float:
    return min((abs(length - counts["testlen"]), length) for length in counts["reflen"])[1]


def _interval(values: Array) -> tuple[float, float]:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def by_fifths(scores: Sequence[float], values: Sequence[float]) -> list[float]:
    """Sorts images by `scores`, splits them into fifths, and returns the mean of `values` in each, lowest scores first.

    With the captions' scores and their CIDEr, this shows whether a score predicts quality.
    """
    fifths = np.array_split(np.argsort(scores, kind="stable"), 5)
    return [float(np.mean(np.asarray(values)[fifth])) for fifth in fifths]


def _as_coco(captions: Mapping[Any, Sequence[str]]) -> dict[Any, list[dict[str, str]]]:
    return {image: [{"caption": text} for text in texts] for image, texts in captions.items()}


def _standardized(captions: Captions) -> dict[str, list[str]]:
    return {image: [" ".join(standardize(text)) for text in texts] for image, texts in captions.items()}
