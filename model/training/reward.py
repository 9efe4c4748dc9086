"""Scores of one caption at a time, on word numbers: the rewards of self-critical training.

Sources: R. Vedantam, C. L. Zitnick and D. Parikh (2015), "CIDEr: Consensus-based Image Description Evaluation",
sections 3 and 5 (CIDEr-D: clipped counts and a Gaussian penalty on the difference of lengths, times 10); M. Denkowski
and A. Lavie (2014), "Meteor Universal", section 3 (the mean of precision and recall, and its weights for English).
That captions should tell photographs apart: J. Wang et al. (2020), "Compare and Reweight: Distinctive Image Captioning
Using Similar Images Sets"; here the captions compared with are the network's own, of the same batch.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Sequence

Caption = tuple[int, ...]
# captions of B images with these numbers, K of each -> float[B][K]
Reward = Callable[[Sequence[int], Sequence[Sequence[Caption]]], Sequence[Sequence[float]]]
Vector = dict[Caption, float]
_LONGEST = 4  # words of an n-gram
_SIGMA = 6.0  # of the length penalty, in words
_RECALL = 0.85  # METEOR's alpha
_FUNCTION_WORD = 0.25 / 0.75  # of what a content word counts, by METEOR's delta


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

    def likeness(self, drawn: Sequence[Sequence[Caption]]) -> list[list[float]]:
        """The mean CIDEr (without D's penalties), 0 to 10, of each caption with those drawn for other images.

        Args:
          drawn: captions of each image of a batch.
        """
        directions = [[self._direction(caption) for caption in captions] for captions in drawn]
        of_image = [_sum(captions) for captions in directions]
        of_all = _sum(of_image)
        count = sum(map(len, drawn))
        return [
            [
                10.0
                * sum(weight * (of_all[ngram] - own[ngram]) for ngram, weight in caption.items())
                / (_LONGEST * max(1, count - len(captions)))
                for caption in captions
            ]
            for captions, own in zip(directions, of_image, strict=True)
        ]

    def _direction(self, caption: Caption) -> Vector:
        """The vectors of its n-grams, each of length 1, as one."""
        return {
            ngram: weight / norm
            for vector, norm in zip(*self._vectors(caption), strict=True)
            for ngram, weight in vector.items()
            if norm
        }

    def _vectors(self, caption: Caption) -> tuple[list[Vector], list[float]]:
        """Weights of its n-grams, n from 1 to 4, and their norms."""
        vectors: list[Vector] = [{} for _ in range(_LONGEST)]
        for ngram, count in _ngrams(caption).items():
            vectors[len(ngram) - 1][ngram] = count * self._rareness.get(ngram, self._unseen)
        return vectors, [math.sqrt(sum(weight**2 for weight in vector.values())) for vector in vectors]


class UnigramF:
    """METEOR without its synonyms, stems and penalty for disorder: does the caption say what people say?

    Args:
      references: for each image people's captions, as word numbers.
      function_words: words that count less.
    """

    def __init__(self, references: Sequence[Sequence[Caption]], function_words: frozenset[int]) -> None:
        self._function_words = function_words
        self._references = [[collections.Counter(caption) for caption in image] for image in references]

    def __call__(self, image: int, caption: Caption) -> float:
        """The best mean of precision and recall, 0 to 1, with one of the captions of the image with this number."""
        said = collections.Counter(caption)
        return max((self._mean(said, reference) for reference in self._references[image]), default=0.0)

    def _mean(self, said: collections.Counter[int], reference: collections.Counter[int]) -> float:
        shared = self._weight(said & reference)
        if not shared:
            return 0.0
        precision, recall = shared / self._weight(said), shared / self._weight(reference)
        return precision * recall / (_RECALL * precision + (1.0 - _RECALL) * recall)

    def _weight(self, words: collections.Counter[int]) -> float:
        return sum(count * (_FUNCTION_WORD if word in self._function_words else 1.0) for word, count in words.items())


def _sum(vectors: Sequence[Vector]) -> collections.defaultdict[Caption, float]:
    total: collections.defaultdict[Caption, float] = collections.defaultdict(float)
    for vector in vectors:
        for ngram, weight in vector.items():
            total[ngram] += weight
    return total


def _ngrams(caption: Caption) -> collections.Counter[Caption]:
    return collections.Counter(
        caption[start : start + length]
        for length in range(1, _LONGEST + 1)
        for start in range(len(caption) - length + 1)
    )
