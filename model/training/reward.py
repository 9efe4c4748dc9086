"""Scores of single captions, given as word numbers: the rewards of self-critical training.

Sources: R. Vedantam, C. L. Zitnick and D. Parikh (2015), "CIDEr: Consensus-based Image Description Evaluation",
sections 3 and 5 (CIDEr-D: clipped counts and a Gaussian penalty on the difference of lengths, times 10); M. Denkowski
and A. Lavie (2014), "Meteor Universal", section 3 (the mean of precision and recall, and its weights for English);
J. Wang et al. (2020), "Compare and Reweight: Distinctive Image Captioning Using Similar Images Sets" (captions should
distinguish images; here they are compared with captions that the network draws for other images of the batch).
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Sequence

Caption = tuple[int, ...]
# (numbers of B images, K captions for each) -> float[B][K]
Reward = Callable[[Sequence[int], Sequence[Sequence[Caption]]], Sequence[Sequence[float]]]
Vector = dict[Caption, float]
_MAX_N = 4  # words in an n-gram
_SIGMA = 6.0  # width of the length penalty, in words
_RECALL = 0.85  # METEOR's alpha
_FUNCTION_WORD = 0.25 / 0.75  # weight relative to a content word, from METEOR's delta


class CiderD:
    """CIDEr-D of captions.

    Args:
      references: the human captions of each image, as word numbers; they also give the document frequencies.
    """

    def __init__(self, references: Sequence[Sequence[Caption]]) -> None:
        counts: collections.Counter[Caption] = collections.Counter()
        for captions in references:
            counts.update({ngram for caption in captions for ngram in _ngrams(caption)})
        self._idf = {ngram: math.log(len(references) / count) for ngram, count in counts.items()}
        self._max_idf = math.log(max(1, len(references)))
        self._references = [[(len(caption), *self._vectors(caption)) for caption in image] for image in references]

    def __call__(self, image: int, caption: Caption) -> float:
        """CIDEr-D, from 0 to 10, of a caption for image number `image`."""
        vectors, norms = self._vectors(caption)
        total = 0.0
        for length, theirs, their_norms in self._references[image]:
            penalty = math.exp(-((len(caption) - length) ** 2) / (2 * _SIGMA**2))
            for ours, our_norm, reference, reference_norm in zip(vectors, norms, theirs, their_norms, strict=True):
                if our_norm and reference_norm:
                    shared = ours.keys() & reference.keys()
                    product = sum(min(ours[ngram], reference[ngram]) * reference[ngram] for ngram in shared)
                    total += penalty * product / (our_norm * reference_norm)
        return 10.0 * total / (_MAX_N * max(1, len(self._references[image])))

    def likeness(self, drawn: Sequence[Sequence[Caption]]) -> list[list[float]]:
        """The mean CIDEr, from 0 to 10 and without the penalties of CIDEr-D, with captions drawn for other images.

        Args:
          drawn: the captions drawn for each image of a batch.

        Returns:
          a number for each caption.
        """
        directions = [[self._direction(caption) for caption in captions] for captions in drawn]
        of_image = [_sum(captions) for captions in directions]
        of_all = _sum(of_image)
        count = sum(map(len, drawn))
        return [
            [
                10.0
                * sum(weight * (of_all[ngram] - own[ngram]) for ngram, weight in caption.items())
                / (_MAX_N * max(1, count - len(captions)))
                for caption in captions
            ]
            for captions, own in zip(directions, of_image, strict=True)
        ]

    def _direction(self, caption: Caption) -> Vector:
        """The normalized vectors of all n-grams, as one vector."""
        return {
            ngram: weight / norm
            for vector, norm in zip(*self._vectors(caption), strict=True)
            for ngram, weight in vector.items()
            if norm
        }

    def _vectors(self, caption: Caption) -> tuple[list[Vector], list[float]]:
        """TF-IDF vectors of the n-grams, n from 1 to 4, and their norms."""
        vectors: list[Vector] = [{} for _ in range(_MAX_N)]
        for ngram, count in _ngrams(caption).items():
            vectors[len(ngram) - 1][ngram] = count * self._idf.get(ngram, self._max_idf)
        return vectors, [math.sqrt(sum(weight**2 for weight in vector.values())) for vector in vectors]


class UnigramF:
    """The F-mean of METEOR on exact words, without synonyms, stems and the fragmentation penalty.

    Args:
      references: the human captions of each image, as word numbers.
      function_words: words with a smaller weight.
    """

    def __init__(self, references: Sequence[Sequence[Caption]], function_words: frozenset[int]) -> None:
        self._function_words = function_words
        self._references = [[collections.Counter(caption) for caption in image] for image in references]

    def __call__(self, image: int, caption: Caption) -> float:
        """The F-mean, from 0 to 1, with the most similar human caption of image number `image`."""
        words = collections.Counter(caption)
        return max((self._f_mean(words, reference) for reference in self._references[image]), default=0.0)

    def _f_mean(self, words: collections.Counter[int], reference: collections.Counter[int]) -> float:
        shared = self._weight(words & reference)
        if not shared:
            return 0.0
        precision, recall = shared / self._weight(words), shared / self._weight(reference)
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
        caption[start : start + length] for length in range(1, _MAX_N + 1) for start in range(len(caption) - length + 1)
    )
