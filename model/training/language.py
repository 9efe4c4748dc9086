"""Measures how captions read, without reference captions: a good metric does not imply good sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from model.english import ARTICLES, FUNCTION_WORDS, PREPOSITIONS
from model.vocabulary import standardize


def language(captions: Sequence[str]) -> dict[str, float]:
    """Measures unfinished and repetitive captions, and the variety of language.

    Args:
      captions: one or more, each of another image.

    Returns:
      shares of the captions in per cent, the number of distinct words, and the mean number of words in a caption.
    """
    split = [standardize(caption) for caption in captions]
    unfinished = [bool(words) and words[-1] in ARTICLES | PREPOSITIONS for words in split]
    counts = [Counter(word for word in words if word not in FUNCTION_WORDS) for words in split]
    repeated = [any(count > 1 for count in words.values()) for words in counts]
    return {
        "% ending in an article or a preposition": 100 * sum(unfinished) / len(split),
        "% with a content word twice": 100 * sum(repeated) / len(split),
        "% distinct": 100 * len({tuple(words) for words in split}) / len(split),
        "words used": len({word for words in split for word in words}),
        "words a caption": sum(map(len, split)) / len(split),
    }
