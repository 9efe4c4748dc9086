"""Words of English that a good sentence may repeat, and those that it should not."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model.vocabulary import END, PAD, START, UNKNOWN, Vocabulary


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


def content_words(vocabulary: Vocabulary) -> npt.NDArray[np.bool_]:
    """Which of the V words are nouns, verbs, adjectives and the like: bool[V]."""
    words = np.array([vocabulary.decode([token]) not in FUNCTION_WORDS for token in range(len(vocabulary))])
    words[[PAD, UNKNOWN, START, END]] = False
    return words
