"""Converts text to word numbers and back, with the standardization of the course's notebook."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

PAD, UNKNOWN, START, END = range(4)
SPECIAL_WORDS = ("<pad>", "<unk>", "<start>", "<end>")

# The notebook's character class: all ASCII punctuation except the apostrophe, and the brackets of <start> and <end>.
_PUNCTUATION = re.compile(r"[!\"#$%&()*+.,\-/:;=?@\[\\\]^_`{|}~]")


# Words are separated by blanks in captions and by line breaks in the file, and they are printed on terminals.
_NO_WORD = re.compile(r"[\s\x00-\x1f\x7f-\x9f]")


def standardize(caption: str) -> list[str]:
    """Splits `caption` into lower-case words without punctuation ("Create Image Captioning Models", `standardize`).

    >>> standardize("A dog's T-shirt , wet .")
    ['a', "dog's", 'tshirt', 'wet']
    """
    return _PUNCTUATION.sub("", caption.lower()).split()


@dataclass(frozen=True)
class Vocabulary:
    """The words of a captioner; a word's number is its index in `words`.

    Attributes:
      words: `SPECIAL_WORDS`, then the other words, most frequent first.
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.words[: len(SPECIAL_WORDS)] != SPECIAL_WORDS:
            raise ValueError(f"a vocabulary starts with {SPECIAL_WORDS}, not {self.words[: len(SPECIAL_WORDS)]}")
        if len(set(self.words)) != len(self.words):
            twice = next(word for word, count in collections.Counter(self.words).items() if count > 1)
            raise ValueError(f"the vocabulary contains {twice!r} twice")
        for number, word in enumerate(self.words):
            if not word or _NO_WORD.search(word):
                raise ValueError(f"word {number} of the vocabulary must be text without blanks, not {word!r:.80}")
        object.__setattr__(self, "_numbers", {word: number for number, word in enumerate(self.words)})

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def build(cls, captions: Iterable[str], min_count: int = 4) -> Vocabulary:
        """A vocabulary of the words that occur `min_count` times or more; ties are in alphabetical order."""
        counts = collections.Counter(word for caption in captions for word in standardize(caption))
        for special in SPECIAL_WORDS:
            counts.pop(special, None)
        known = [(-count, word) for word, count in counts.items() if count >= min_count]
        return cls(SPECIAL_WORDS + tuple(word for _, word in sorted(known)))

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Reads a file that `save` wrote. Raises ValueError if it is not a vocabulary."""
        return cls(tuple(path.read_text(encoding="utf-8").splitlines()))

    def save(self, path: Path) -> None:
        """Writes one word per line; the line number, from 0, is the word's number."""
        path.write_text("".join(f"{word}\n" for word in self.words), encoding="utf-8")

    def encode(self, caption: str, max_words: int) -> npt.NDArray[np.int32]:
        """int32[max_words + 2]: `<start>`, at most `max_words` words, `<end>`, padding."""
        numbers: dict[str, int] = self._numbers  # type: ignore[attr-defined]
        words = [numbers.get(word, UNKNOWN) for word in standardize(caption)[:max_words]]
        encoded = np.full(max_words + 2, PAD, np.int32)
        encoded[: len(words) + 2] = [START, *words, END]
        return encoded

    def decode(self, tokens: Sequence[int] | npt.NDArray[np.int32]) -> str:
        """The words of `tokens` up to `<end>`, separated by blanks, without special words."""
        words = []
        for token in tokens:
            if token == END:
                break
            if token >= len(SPECIAL_WORDS):
                words.append(self.words[token])
        return " ".join(words)
