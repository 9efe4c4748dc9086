"""What each `--method` trains, on what, and with which reward."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from model.captioner import Captioner
from model.config import CaptionerConfig, Decoding
from model.english import FUNCTION_WORDS
from model.training.caption_words import Words, references
from model.training.data import Example
from model.training.features import Views, cached_features, cached_images, size_with_margin
from model.training.learners import Draw, FineTuning, FrozenBackbone, Learner, SelfCritical
from model.training.reward import Caption, CiderD, Reward, UnigramF
from model.training.validation import Validation, mean_validation
from model.vocabulary import END, PAD, Vocabulary

Tensor = Any


def create_learner(
    args: argparse.Namespace,
    captioner: Captioner,
    training: Sequence[Example],
    validation: Sequence[Sequence[Example]],
    cache: Path,
) -> tuple[Learner, Callable[[], float]]:
    """The learner of `args.method`, and the validation of what it learns.

    Args:
      args: the options of `python -m model train`.
      captioner: the captioner to train.
      training: images to train on.
      validation: sets of images to validate with; the mean of their scores counts.
      cache: folder for features or scaled images.
    """
    words = _encode_captions(training, captioner.vocabulary, captioner.config)
    base: FineTuning | FrozenBackbone
    if args.tuned_share:
        base, sets = _fine_tuning(args, captioner, words, training, validation, cache)
    else:
        base, sets = _frozen_backbone(args, captioner, words, training, validation, cache)
    validate = mean_validation(sets)
    if args.method != "self_critical":
        return base, validate
    draw = _draw_function(captioner, base.features, args.samples)
    reward = _reward_function(references(words), captioner.vocabulary, args.f_weight, args.likeness_weight)
    return SelfCritical(base, draw, args.forcing, args.samples, args.label_smoothing, reward), validate


def _fine_tuning(
    args: argparse.Namespace,
    captioner: Captioner,
    words: Words,
    training: Sequence[Example],
    validation: Sequence[Sequence[Example]],
    cache: Path,
) -> tuple[FineTuning, list[Validation]]:
    """The learner of the backbone's upper layers, and the validations, which see images."""
    encoder, size = captioner.encoder, captioner.config.input_size
    images = cached_images(size_with_margin(size), training, cache / "train")
    learner = FineTuning(
        encoder, captioner.decoder, words, images, args.tuned_share, args.label_smoothing, args.smallest_crop
    )
    sets = [
        Validation(captioner, examples, cached_images(size, examples, cache / "validation"), encoder)
        for examples in validation
    ]
    return learner, sets


def _frozen_backbone(
    args: argparse.Namespace,
    captioner: Captioner,
    words: Words,
    training: Sequence[Example],
    validation: Sequence[Sequence[Example]],
    cache: Path,
) -> tuple[FrozenBackbone, list[Validation]]:
    """The learner of the decoder alone, and the validations, which see the backbone's features."""
    encoder = captioner.encoder
    features = cached_features(encoder, training, cache / "train", Views(args.views, args.smallest_crop))
    learner = FrozenBackbone(encoder, captioner.decoder, words, features, args.label_smoothing, args.captions_per_step)
    sets = []
    for examples in validation:
        plain = cached_features(encoder, examples, cache / "validation", Views(1))[:, 0]
        sets.append(Validation(captioner, examples, plain, encoder.project))
    return learner, sets


def _reward_function(
    human_captions: Sequence[Sequence[Caption]], vocabulary: Vocabulary, f_weight: float, likeness_weight: float
) -> Reward:
    """The reward of captions, by the human captions of each image."""
    cider = CiderD(human_captions)
    # <end> counts as a function word, since every caption has it.
    function_words = {END, *(number for number, word in enumerate(vocabulary.words) if word in FUNCTION_WORDS)}
    unigram = UnigramF(human_captions, frozenset(function_words))

    def reward(images: Sequence[int], drawn: Sequence[Sequence[Caption]]) -> list[list[float]]:
        likeness = cider.likeness(drawn) if likeness_weight else [[0.0] * len(captions) for captions in drawn]
        return [
            [
                cider(image, caption)
                + (f_weight * unigram(image, caption) if f_weight else 0.0)
                - likeness_weight * similar
                for caption, similar in zip(captions, similarities, strict=True)
            ]
            for image, captions, similarities in zip(images, drawn, likeness, strict=True)
        ]

    return reward


def _draw_function(captioner: Captioner, features: Callable[[Tensor], Tensor], captions: int) -> Draw:
    """Samples captions from the current weights: (input of `features`, float32[B, K, T]) -> int32[B, K, T]."""
    decoding = Decoding("sample", num_captions=captions, top_k=len(captioner.vocabulary), no_repeat_ngram=0)
    sampler = Captioner(captioner.config, captioner.vocabulary, captioner.encoder, captioner.decoder, decoding=decoding)

    def draw(inputs: Tensor, uniforms: Tensor) -> Tensor:
        return sampler.caption_features(features(inputs), uniforms).words

    return tf.function(draw, autograph=False)


def _encode_captions(examples: Sequence[Example], vocabulary: Vocabulary, config: CaptionerConfig) -> Words:
    """All captions as int32[N, K, T + 2]; images with fewer than K captions are padded with empty ones."""
    most = max(len(example.captions) for example in examples)
    words = np.full((len(examples), most, config.max_words + 2), PAD, np.int32)
    for row, example in zip(words, examples, strict=True):
        for place, caption in zip(row, example.captions, strict=False):
            place[:] = vocabulary.encode(caption, config.max_words)
    return words
