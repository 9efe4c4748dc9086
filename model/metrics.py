"""The field's caption metrics, from `pycocoevalcap`.

Source: X. Chen et al. (2015), "Microsoft COCO Captions: Data Collection and Evaluation Server".
"""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Mapping, Sequence

from model.vocabulary import standardize

Captions = Mapping[str, Sequence[str]]


class MetricsError(RuntimeError):
    """A metric's program is not installed; the message says how to get it."""


def quick_cider(references: Captions, candidates: Captions) -> float:
    """CIDEr times 100 on words split by `standardize`: no Java, a second for 1,000 images; for use while training."""
    try:
        from pycocoevalcap.cider.cider import Cider
    except ImportError as error:
        raise MetricsError("metrics need pycocoevalcap: pip install 'caption-images[train]'") from error
    score, _ = Cider().compute_score(_standardized(references), _standardized(candidates))
    return 100.0 * float(score)


def caption_metrics(references: Captions, candidates: Captions) -> dict[str, float]:
    """BLEU-1 to 4, METEOR, ROUGE-L and CIDEr, each times 100, on words of the PTB tokenizer.

    Args:
      references: human captions by image.
      candidates: one caption for each image of `references`.

    Raises:
      MetricsError: pycocoevalcap or Java is not there.
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
        cider, _ = Cider().compute_score(truth, said)
    names = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
    return {name: 100.0 * float(value) for name, value in zip(names, (*bleu, meteor, rouge, cider), strict=True)}


def _as_coco(captions: Captions) -> dict[str, list[dict[str, str]]]:
    return {image: [{"caption": text} for text in texts] for image, texts in captions.items()}


def _standardized(captions: Captions) -> dict[str, list[str]]:
    return {image: [" ".join(standardize(text)) for text in texts] for image, texts in captions.items()}
