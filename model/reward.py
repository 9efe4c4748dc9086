"""CIDEr-D of one caption at a time, on word numbers: the reward of self-critical training.

Source: R. Vedantam, C. L. Zitnick and D. Parikh (2015), "CIDEr: Consensus-based Image Description Evaluation",
sections 3 and 5 (CIDEr-D: clipped counts and a Gaussian penalty on the difference of lengths, times 10).
"""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence

Caption = tuple[int, ...]
Vector = dict[Caption, float]
_LONGEST = 4  # words of an n-gram
_SIGMA = 6.0  # of the length penalty, in words


class CiderD:
    """Scores captions of the images that it was made with.

    Args:
      references: for each image people's captions, as word numbers; the frequencies of n-grams are counted in them.
    """

    def __init__(self, references: Sequence[Sequence[Caption]]) -> None:
        counts: collections.Counter[Caption] = collections.Counter()
        for captions in references:
            counts.update({ngram for caption in captions for ngram in _ngrams(caption)})
        self._rareness = {ngram: math.log(len(references) / count) for ngram, count in counts.items()}
        self._unseen = math.log(max(1, len(references)))
        self._references = [[(len(caption), *self._vectors(caption)) for caption in image] for image in references]

    def __call__(self, image: int, caption: Caption) -> float:
        """CIDEr-D, 0 to 10, of a caption for the image with this number."""
        vectors, norms = self._vectors(caption)
        total = 0.0
        for length, theirs, their_norms in self._references[image]:
            penalty = math.exp(-((len(caption) - length) ** 2) / (2 * _SIGMA**2))
            for ours, our_norm, reference, reference_norm in zip(vectors, norms, theirs, their_norms, strict=True):
                if our_norm and reference_norm:
                    shared = ours.keys() & reference.keys()
                    product = sum(min(ours[ngram], reference[ngram]) * reference[ngram] for ngram in shared)
                    total += penalty * product / (our_norm * reference_norm)
        return 10.0 * total / (_LONGEST * max(1, len(self._references[image])))

    def _vectors(self, caption: Caption) -> tuple[list[Vector], list[float]]:
        """Weights of its n-grams, n from 1 to 4, and their norms."""
        vectors: list[Vector] = [{} for _ in range(_LONGEST)]
        for ngram, count in _ngrams(caption).items():
            vectors[len(ngram) - 1][ngram] = count * self._rareness.get(ngram, self._unseen)
        return vectors, [math.sqrt(sum(weight**2 for weight in vector.values())) for vector in vectors]


def _ngrams(caption: Caption) -> collections.Counter[Caption]:
    return collections.Counter(
        caption[start : start + length]
        for length in range(1, _LONGEST + 1)
        for start in range(len(caption) - length + 1)
    )
