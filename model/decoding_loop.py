"""The loop that all decoding methods share, in Keras operations for use in a graph: a word of every caption at a time.

The loop knows the model only as a `Step`, so tests can use a step that spells a fixed sentence.
Dimensions: B images, K captions for each image, T maximum words, V words of the vocabulary, U units of the state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from model.vocabulary import PAD, START

Tensor = Any
# (last words int32[B, K], state float32[B, K, U]) -> (logits float32[B, K, V], next state)
Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
# positions of A images in the batch, int32[A] -> the step for these images
StepForImages = Callable[[Tensor], Step]
# The loop continues with the unfinished images alone when these shares of the batch are left; each adds a loop.
_SHARES_LEFT = (1 / 2, 1 / 5)


class Hypotheses(NamedTuple):
    """Decoded captions, best first for each image.

    Attributes:
      words: int32[B, K, T]; captions end with END, unless they have T words, and are padded with PAD.
      log_probabilities: float32[B, K, T], of each word, END included; 0 for padding.
    """

    words: Tensor
    log_probabilities: Tensor


class Progress(NamedTuple):
    """The loop variables."""

    number: Tensor  # int32[], number of words so far
    images: Tensor  # int32[B], positions in the whole batch
    last: Tensor  # int32[B, K]
    ended: Tensor  # bool[B, K]
    state: Tensor  # float32[B, K, U]
    words: Tensor  # int32[B, K, T]
    scores: Tensor  # float32[B, K, T]


NextWord = Callable[[Step, Progress], Progress]


def decode(
    step: Step, state: Tensor, max_words: int, next_word: NextWord, step_for_images: StepForImages | None
) -> Hypotheses:
    """Decodes from START until every caption has ended or has `max_words`."""
    shape = (ops.shape(state)[0], state.shape[1])
    start = Progress(
        number=ops.zeros((), dtype="int32"),
        images=ops.arange(shape[0], dtype="int32"),
        last=ops.full(shape, START, dtype="int32"),
        ended=ops.zeros(shape, dtype="bool"),
        state=state,
        words=ops.full((*shape, max_words), PAD, dtype="int32"),
        scores=ops.zeros((*shape, max_words), dtype="float32"),
    )
    if step_for_images is None:
        found = _run(step, start, max_words, next_word, 0.0)
        return Hypotheses(found.words, found.scores)
    words, scores = start.words, start.scores
    for left in (*_SHARES_LEFT, 0.0):
        found = _run(step, start, max_words, next_word, left * ops.cast(shape[0], "float32"))
        words = ops.scatter_update(words, found.images[:, None], found.words)
        scores = ops.scatter_update(scores, found.images[:, None], found.scores)
        if left:
            start = _select_unfinished(found)
            step = step_for_images(start.images)
    return Hypotheses(words, scores)


def _run(step: Step, start: Progress, max_words: int, next_word: NextWord, left: Tensor) -> Progress:
    """Decodes until at most `left` images have unfinished captions, or to `max_words`."""

    def unfinished(*progress: Tensor) -> Tensor:
        now = Progress(*progress)
        return ops.logical_and(now.number < max_words, ops.sum(ops.cast(_is_unfinished(now), "float32")) > left)

    return Progress(
        *ops.while_loop(unfinished, lambda *progress: tuple(next_word(step, Progress(*progress))), tuple(start))
    )


def _is_unfinished(now: Progress) -> Tensor:
    """Whether an image has an unfinished caption: bool[B]."""
    return ops.logical_not(ops.all(now.ended, axis=1))


def _select_unfinished(now: Progress) -> Progress:
    """The progress of the unfinished images."""
    rows = ops.cast(ops.nonzero(_is_unfinished(now))[0], "int32")
    return Progress(now.number, *(ops.take(values, rows, axis=0) for values in now[1:]))
