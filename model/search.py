"""Decoding methods over a step function: greedy, beam search and sampling, in Keras operations for use in a graph.

Dimensions: B images, K captions for each image, T maximum words, V words of the vocabulary.

`no_repeat_ngram`, an argument of every method: with n of 1 or more, no word follows itself and no n consecutive words
occur twice in a caption (Paulus et al. 2017, "A Deep Reinforced Model for Abstractive Summarization", section 2.5); 0
allows both. Scores are the model's probabilities, which are not renormalized without the words that are ruled out.

`once`, an argument of every method: bool[V], the words that a caption has at most once; it needs `no_repeat_ngram`.

`step_for_images`, an argument of every method: images whose captions have all ended need no further steps. With it, the
loop continues with the unfinished images alone as soon as few enough are left. Without it all shapes are fixed, which
XLA needs.
"""

from __future__ import annotations

from collections.abc import Callable

from keras import ops

from model.decoding_loop import Hypotheses, Progress, Step, StepForImages, Tensor, decode
from model.vocabulary import END, PAD, START

# (log-probabilities float32[B, K, V], progress) -> chosen words int32[B, K]
Choose = Callable[[Tensor, Progress], Tensor]
_IMPOSSIBLE = -1e9  # not -inf: 0 * -inf is nan


def greedy(
    step: Step,
    state: Tensor,
    max_words: int,
    no_repeat_ngram: int = 0,
    step_for_images: StepForImages | None = None,
    once: Tensor | None = None,
) -> Hypotheses:
    """Chooses the likeliest word in each step. `state`: float32[B, K, U]; K is usually 1."""

    def likeliest(log_probabilities: Tensor, now: Progress) -> Tensor:
        return ops.cast(ops.argmax(log_probabilities, axis=-1), "int32")

    return _decode_independently(step, state, max_words, no_repeat_ngram, likeliest, step_for_images, once)


def sample(
    step: Step,
    state: Tensor,
    max_words: int,
    uniforms: Tensor,
    top_k: int,
    temperature: float,
    no_repeat_ngram: int = 0,
    step_for_images: StepForImages | None = None,
    once: Tensor | None = None,
) -> Hypotheses:
    """Draws each word from the `top_k` likeliest, by inverting their cumulative distribution at `temperature`.

    Args:
      step: the model.
      state: float32[B, K, U].
      max_words: T.
      uniforms: float32[B, K, T] in [0, 1), the only source of randomness. The caller draws them for each image
        separately, so that captions do not depend on the other images in the batch.
      top_k: number of words to draw from; V or more means all words.
      temperature: divides the logits.
      no_repeat_ngram: see the module's documentation.
      step_for_images: see the module's documentation.
      once: see the module's documentation.
    """

    def draw(log_probabilities: Tensor, now: Progress) -> Tensor:
        size = log_probabilities.shape[-1]
        if top_k < size:
            values, words = ops.top_k(log_probabilities, top_k)
        else:  # sorting all words would dominate the run time
            values, words = log_probabilities, None
        sharpened = values / temperature
        # Not ops.softmax, which warns if the axis has one word.
        cumulative = ops.cumsum(ops.exp(sharpened - ops.logsumexp(sharpened, axis=-1, keepdims=True)), axis=-1)
        # Without the last column, since after rounding the sum may be below a uniform close to 1.
        drawn = ops.take(ops.take(uniforms, now.number, axis=2), now.images, axis=0)[..., None]
        place = ops.sum(ops.cast(cumulative[..., :-1] <= drawn, "int32"), axis=-1, keepdims=True)
        chosen = place if words is None else ops.take_along_axis(words, place, axis=-1)
        return ops.cast(chosen[..., 0], "int32")

    return _decode_independently(step, state, max_words, no_repeat_ngram, draw, step_for_images, once)


def _decode_independently(
    step: Step,
    state: Tensor,
    max_words: int,
    no_repeat_ngram: int,
    choose: Choose,
    step_for_images: StepForImages | None,
    once: Tensor | None,
) -> Hypotheses:
    """Decodes captions independently of each other, as greedy search and sampling do; `choose` picks the words."""

    def next_word(step: Step, now: Progress) -> Progress:
        logits, state = step(now.last, now.state)
        log_probabilities = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
        log_probabilities = _without_repeats(log_probabilities, now, no_repeat_ngram, once)
        chosen = choose(log_probabilities, now)
        score = ops.take_along_axis(log_probabilities, chosen[..., None], axis=-1)[..., 0]
        chosen = ops.where(now.ended, PAD, chosen)
        return Progress(
            number=now.number + 1,
            images=now.images,
            last=chosen,
            ended=ops.logical_or(now.ended, ops.equal(chosen, END)),
            state=state,
            words=_put(now.words, now.number, chosen),
            scores=_put(now.scores, now.number, ops.where(now.ended, 0.0, score)),
        )

    return decode(step, state, max_words, next_word, step_for_images)


def beam(
    step: Step,
    state: Tensor,
    max_words: int,
    length_penalty: float,
    no_repeat_ngram: int = 0,
    step_for_images: StepForImages | None = None,
    once: Tensor | None = None,
) -> Hypotheses:
    """Beam search; the beam's width is K of `state`, float32[B, K, U].

    Finished hypotheses stay in the beam. All are ranked by
    `sum of log-probabilities / ((5 + words) / 6) ** length_penalty` (Wu et al. 2016, equation 14, without coverage).
    """

    def next_word(step: Step, now: Progress) -> Progress:
        logits, state = step(now.last, now.state)
        logits = ops.cast(logits, "float32")
        # A hypothesis has at most K successors among the K best. A pass over all V words costs as much as a layer.
        allowed = _without_repeats(logits, now, no_repeat_ngram, once)
        values, words = ops.top_k(allowed, min(logits.shape[1], logits.shape[2]))
        log_probabilities = values - ops.logsumexp(logits, axis=-1, keepdims=True)
        log_probabilities, words = _only_padding_after_end(log_probabilities, ops.cast(words, "int32"), now.ended)
        parent, place = _best(log_probabilities, now, length_penalty)
        chosen = _at(words, parent, place)
        return Progress(
            number=now.number + 1,
            images=now.images,
            last=chosen,
            ended=ops.logical_or(_rows(now.ended, parent), ops.equal(chosen, END)),
            state=_rows(state, parent),
            words=_put(_rows(now.words, parent), now.number, chosen),
            scores=_put(_rows(now.scores, parent), now.number, _at(log_probabilities, parent, place)),
        )

    return decode(step, state, max_words, next_word, step_for_images)


def _best(log_probabilities: Tensor, now: Progress, length_penalty: float) -> tuple[Tensor, Tensor]:
    """The K best of C continuations of each hypothesis, float32[B, K, C]: their parents and positions, int32[B, K]."""
    width, count = log_probabilities.shape[1], log_probabilities.shape[2]
    total = ops.sum(now.scores, axis=-1)[..., None] + log_probabilities
    length = ops.sum(ops.cast(ops.not_equal(now.words, PAD), "float32"), axis=-1)
    length = length + ops.cast(ops.logical_not(now.ended), "float32")
    ranked = total / (((5.0 + length) / 6.0) ** length_penalty)[..., None]
    # Before the first word all hypotheses are equal, so only the first may continue.
    duplicate = ops.logical_and(ops.equal(now.number, 0), ops.arange(width) > 0)
    ranked = ops.where(duplicate[None, :, None], _IMPOSSIBLE, ranked)
    _, places = ops.top_k(ops.reshape(ranked, (-1, width * count)), width)
    places = ops.cast(places, "int32")
    return places // count, places % count


def _without_repeats(scores: Tensor, now: Progress, no_repeat_ngram: int, once: Tensor | None) -> Tensor:
    """float32[B, K, V] in which words that may not come again are impossible."""
    if not no_repeat_ngram:
        return scores
    captions, length = now.words.shape[1], now.words.shape[2]
    # follows[b, k, t]: the n - 1 words before position t equal the last n - 1 words. START pads the positions before
    # the first word; it occurs nowhere else, so no match extends beyond the caption.
    before = no_repeat_ngram - 1
    padded = ops.pad(now.words, [(0, 0), (0, 0), (before, 0)], constant_values=START)
    follows = ops.broadcast_to(ops.arange(length) < now.number, ops.shape(now.words))
    for place in range(before):
        last = ops.take(padded, now.number + place, axis=2)[..., None]
        follows = ops.logical_and(follows, ops.equal(padded[..., place : place + length], last))
    if once is not None:
        follows = ops.logical_or(follows, ops.take(once, now.words, axis=0))
    ruled_out = ops.concatenate([ops.where(follows, now.words, PAD), now.last[..., None]], axis=-1)  # [B, K, T + 1]
    # A scatter, since T is about 24 and V thousands. An addition, so that NaN stays NaN.
    shape = ops.shape(ruled_out)
    rows = ops.broadcast_to(ops.arange(shape[0])[:, None, None], shape)
    columns = ops.broadcast_to(ops.arange(captions)[None, :, None], shape)
    indices = ops.reshape(ops.stack([rows, columns, ruled_out], axis=-1), (-1, 3))
    penalties = ops.full((ops.shape(indices)[0],), _IMPOSSIBLE)
    return scores + ops.scatter(indices, penalties, ops.shape(scores))


def _only_padding_after_end(log_probabilities: Tensor, words: Tensor, ended: Tensor) -> tuple[Tensor, Tensor]:
    """Continuations [B, K, C], replaced for finished hypotheses by a single one: PAD, with log-probability 0."""
    first = ops.equal(ops.arange(words.shape[-1]), 0)
    ended = ended[..., None]
    padding = ops.where(first, 0.0, _IMPOSSIBLE)
    return ops.where(ended, padding, log_probabilities), ops.where(ended, PAD, words)


def _rows(values: Tensor, parent: Tensor) -> Tensor:
    """Gathers rows of [B, K, ...] along axis 1 by int32[B, K]."""
    width, shape = values.shape[1], ops.shape(values)
    rows = ops.arange(shape[0])[:, None] * width + parent
    return ops.take(ops.reshape(values, (-1, *values.shape[2:])), rows, axis=0)


def _at(values: Tensor, parent: Tensor, place: Tensor) -> Tensor:
    """Gathers values of [B, K, C] by two indices int32[B, K]: [B, K]."""
    count = values.shape[2]
    return ops.take_along_axis(ops.reshape(values, (-1, values.shape[1] * count)), parent * count + place, axis=1)


def _put(values: Tensor, number: Tensor, column: Tensor) -> Tensor:
    """[B, K, T] with column `number` replaced by [B, K]."""
    here = ops.equal(ops.arange(values.shape[-1]), number)
    return ops.where(here, column[..., None], values)
