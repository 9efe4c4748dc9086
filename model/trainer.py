"""Teacher forcing of the decoder on cached encoder features, with a checkpoint after each epoch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops
from safetensors import safe_open
from safetensors.numpy import save_file

from model.features import Features
from model.network import Decoder, Encoder, Tensor
from model.vocabulary import PAD

Words = npt.NDArray[np.int32]


@dataclass(frozen=True)
class TrainingOptions:
    """How long and how fast to learn.

    Attributes:
      epochs: passes over the training photographs.
      batch_size: photographs a step; all their captions are learnt together.
      learning_rate: the peak of AdamW's rate: linear warm-up over the first half epoch, then a cosine to 0.
      weight_decay: of AdamW.
      label_smoothing: share of the probability that is spread over all words (Szegedy et al. 2016, section 7).
      seed: of the weights' start, the order, the flips and dropout.
    """

    epochs: int = 12
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be a whole number from 1, not {getattr(self, name)!r}")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate must be between 0 and 1, not {self.learning_rate!r}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be at least 0 and below 1, not {self.label_smoothing!r}")


class TeacherForcing(keras.Model):
    """(grid float[B, L, C], words int32[B, K, T]) -> logits float32[B, K, T, V]; the backbone takes no part."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.projection = encoder.projection
        self.decoder = decoder

    def call(self, inputs: tuple[Tensor, Tensor], training: bool = False) -> Tensor:
        grid, words = inputs
        return self.decoder(words, self.projection(ops.cast(grid, "float32")), training=training)


def masked_cross_entropy(label_smoothing: float) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss (int32[B, K, T], logits float32[B, K, T, V]) -> mean over the words that are not padding."""

    def loss(words: Tensor, logits: Tensor) -> Tensor:
        words = ops.cast(words, "int32")
        log_probabilities = ops.log_softmax(logits, axis=-1)
        said = ops.take_along_axis(log_probabilities, words[..., None], axis=-1)[..., 0]
        spread = ops.mean(log_probabilities, axis=-1)
        mask = ops.cast(ops.not_equal(words, PAD), "float32")
        per_word = (1 - label_smoothing) * said + label_smoothing * spread
        return -ops.sum(per_word * mask) / ops.maximum(ops.sum(mask), 1.0)

    return loss


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to; one line of the training log."""

    epoch: int
    loss: float
    validation_cider: float
    seconds: float


class Trainer:
    """Trains projection and decoder; an interrupted training goes on after its last whole epoch.

    Args:
      encoder: its backbone made the features and is not changed.
      decoder: to train.
      options: how.
      folder: for `checkpoint.safetensors` and `log.jsonl`.
      validate: the validation score of the present weights.
      keep: called after each epoch that has the best validation score so far.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        options: TrainingOptions,
        folder: Path,
        validate: Callable[[], float],
        keep: Callable[[Epoch], None],
    ) -> None:
        self.model = TeacherForcing(encoder, decoder)
        self.options = options
        self.folder = folder
        self.validate = validate
        self.keep = keep
        self.log: list[Epoch] = []

    def train(self, features: Features, words: Words) -> list[Epoch]:
        """Trains to the last epoch.

        Args:
          features: float16[N, F, L, C]: of each photograph, F views (as it is, flipped).
          words: int32[N, K, T + 1]: `<start>` ... `<end>`, padded.

        Returns:
          the log, a record for each epoch.
        """
        steps = max(1, len(features) // self.options.batch_size)
        self._compile(steps)
        self._resume()
        for number in range(len(self.log), self.options.epochs):
            started = time.monotonic()
            loss = self._epoch(number, steps, features, words)
            epoch = Epoch(number + 1, loss, self.validate(), time.monotonic() - started)
            self._finish(epoch)
        return self.log

    def _compile(self, steps: int) -> None:
        total = steps * self.options.epochs
        warmup = min(steps // 2 + 1, total - 1)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, max(1, total - warmup), warmup_target=self.options.learning_rate, warmup_steps=warmup
        )
        optimizer = keras.optimizers.AdamW(rate, weight_decay=self.options.weight_decay, clipnorm=5.0)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        # XLA's CPU code is slower here than the plain graph.
        self.model.compile(optimizer, loss=masked_cross_entropy(self.options.label_smoothing), jit_compile=False)
        optimizer.build(self.model.trainable_variables)

    def _epoch(self, number: int, steps: int, features: Features, words: Words) -> float:
        """One pass; the mean loss of its steps."""
        rng = np.random.default_rng((self.options.seed, number))
        keras.utils.set_random_seed(self.options.seed * 10_007 + number)
        losses, started = [], time.monotonic()
        for step, (grid, batch) in enumerate(_batches(features, words, self.options.batch_size, rng)):
            losses.append(float(self.model.train_on_batch((grid, batch[..., :-1]), batch[..., 1:])))
            if (step + 1) % 50 == 0:
                rate = (step + 1) * len(grid) / (time.monotonic() - started)
                print(
                    f"epoch {number + 1}/{self.options.epochs}  step {step + 1}/{steps}  loss {losses[-1]:.3f}  "
                    f"{rate:.0f} photographs/s",
                    flush=True,
                )
        return float(np.mean(losses))

    def _finish(self, epoch: Epoch) -> None:
        best = all(epoch.validation_cider > earlier.validation_cider for earlier in self.log)
        self.log.append(epoch)
        print(
            f"epoch {epoch.epoch}/{self.options.epochs}  loss {epoch.loss:.3f}  validation CIDEr "
            f"{epoch.validation_cider:.1f}{' (best)' if best else ''}  {epoch.seconds:.0f} s",
            flush=True,
        )
        if best:
            self.keep(epoch)
        with (self.folder / "log.jsonl").open("w", encoding="utf-8") as log:
            log.writelines(json.dumps(asdict(line)) + "\n" for line in self.log)
        self._save()

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def _variables(self) -> dict[str, Any]:
        # The model's variables include the state of dropout's random numbers.
        variables = [*self.model.variables, *self.model.optimizer.variables]
        return {f"{number:04d}": variable for number, variable in enumerate(variables)}

    def _save(self) -> None:
        arrays = {name: np.asarray(variable) for name, variable in self._variables().items()}
        partial = self._checkpoint.with_suffix(".partial")
        metadata = {
            "log": json.dumps([asdict(epoch) for epoch in self.log]),
            "options": json.dumps(asdict(self.options), sort_keys=True),
        }
        save_file(arrays, partial, metadata)
        partial.replace(self._checkpoint)

    def _resume(self) -> None:
        """Takes up the checkpoint, where there is one of the same options."""
        if not self._checkpoint.exists():
            return
        with safe_open(self._checkpoint, framework="numpy") as checkpoint:
            metadata = checkpoint.metadata()
            if json.loads(metadata["options"]) != asdict(self.options):
                raise ValueError(
                    f"{self._checkpoint} was made with other options, {metadata['options']}; "
                    "give those again to go on, or another --output to start anew"
                )
            for name, variable in self._variables().items():
                variable.assign(checkpoint.get_tensor(name))
            self.log = [Epoch(**epoch) for epoch in json.loads(metadata["log"])]
        print(f"going on after epoch {len(self.log)} of {self._checkpoint}", flush=True)


def _batches(
    features: Features, words: Words, batch_size: int, rng: np.random.Generator
) -> Iterator[tuple[Features, Words]]:
    """The photographs in a new order, each in one of its views: float16[B, L, C], int32[B, K, T + 1]."""
    batch_size = min(batch_size, len(features))
    order = rng.permutation(len(features))
    for start in range(0, len(order) - batch_size + 1, batch_size):
        chosen = np.sort(order[start : start + batch_size])
        views = rng.integers(features.shape[1], size=batch_size)
        yield features[chosen, views], words[chosen]
