"""Measures how captions read, without reference captions: a good metric does not imply good sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from model.vocabulary import standardize


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ARTICLES = _words("a an the")
# Prepositions that need a noun after them. Others, such as "outside", "by" and "up", can end a good sentence.
PREPOSITIONS = _words(
    """across against amid among as at atop before beside besides between during for from in into like near next of on
    onto than through throughout to toward towards under upon via with within without"""
)
# Other words that a good sentence may repeat.
_OTHER_FUNCTION_WORDS = _words(
    """about above after along alongside and are around away be been behind being below beneath but by doing down each
    had has have having he her hers herself him himself his i if inside is it its itself me my no nor not off one or
    other others our out outside over past she so some that their them themselves there these they this those two
    underneath until up was we were what when where which while who whose you your"""
)
FUNCTION_WORDS = ARTICLES | PREPOSITIONS | _OTHER_FUNCTION_WORDS


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
