"""The training loop: steps, learning rates, averaged weights, and a checkpoint after each epoch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from safetensors import safe_open
from safetensors.numpy import save_file

from model.training.learners import Learner

Tensor = Any


@dataclass(frozen=True)
class TrainingOptions:
    """How long and how fast to learn.

    Attributes:
      epochs: passes over the training photographs.
      batch_size: photographs a step; all their captions are learnt together.
      learning_rate: the peak of AdamW's rate: linear warm-up over the first half epoch, then a cosine to 0.
      backbone_rate: the backbone's learning rate as a share of `learning_rate`.
      weight_decay: of AdamW.
      label_smoothing: share of the probability that is spread over all words (Szegedy et al. 2016, section 7).
      weight_average: momentum of the average of the weights over the steps, which is what is validated and kept; 0
        keeps the weights of the last step.
      patience: stop after this many epochs without a better validation score; 0 never stops early.
      seed: of the weights' start, the order, the changes to the pictures and dropout.
    """

    epochs: int = 12
    batch_size: int = 32
    learning_rate: float = 1e-3
    backbone_rate: float = 0.1
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    weight_average: float = 0.0
    patience: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be a whole number from 1, not {getattr(self, name)!r}")
        for name in ("learning_rate", "backbone_rate"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, not {getattr(self, name)!r}")
        for name in ("label_smoothing", "weight_average"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, not {getattr(self, name)!r}")
        if self.patience < 0:
            raise ValueError(f"patience must be at least 0, not {self.patience!r}")


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to; one line of the training log."""

    epoch: int
    loss: float
    validation_cider: float
    seconds: float


class Trainer:
    """Trains as a learner says; an interrupted training goes on after its last whole epoch.

    Args:
      learner: what is trained, on what, and with which loss.
      options: how.
      recipe: what else the training depends on; a checkpoint of another recipe is not taken up.
      folder: for `checkpoint.safetensors`, `log.jsonl` and, where TensorBoard is installed, its events.
      validate: the validation score of the present weights.
      keep: called after each epoch that has the best validation score so far.
    """

    def __init__(
        self,
        learner: Learner,
        options: TrainingOptions,
        recipe: Mapping[str, Any],
        folder: Path,
        validate: Callable[[], float],
        keep: Callable[[Epoch], None],
    ) -> None:
        self.learner = learner
        self.options = options
        self.recipe = {**recipe, **asdict(options)}
        self.folder = folder
        self.validate = validate
        self.keep = keep
        self.log: list[Epoch] = []

    def train(self) -> list[Epoch]:
        """Trains to the last epoch; returns the log, a record for each epoch."""
        self._prepare()
        self._resume()
        for number in range(len(self.log), self.options.epochs):
            if self._stale():
                print(f"no better epoch in {self.options.patience}: stopped", flush=True)
                break
            self._epoch(number)
        return self.log

    def _epoch(self, number: int) -> None:
        started = time.monotonic()
        loss = self._steps(number)
        self._exchange()
        score = self.validate()
        epoch = Epoch(number + 1, loss, score, time.monotonic() - started)
        best = all(score > earlier.validation_cider for earlier in self.log)
        if best:
            self.keep(epoch)
        self._exchange()
        self._finish(epoch, best)

    def _stale(self) -> bool:
        scores = [epoch.validation_cider for epoch in self.log]
        patience = self.options.patience
        return bool(patience and scores) and len(scores) - 1 - scores.index(max(scores)) >= patience

    def _prepare(self) -> None:
        options, steps = self.options, self.learner.steps(self.options.batch_size)
        total = steps * options.epochs
        warmup = min(steps // 2 + 1, total - 1)
        backbone = {id(variable) for variable in self.learner.backbone_variables}
        own = [v for v in self.learner.trainable_variables if id(v) not in backbone]
        self._groups = []
        for variables, factor in ((own, 1.0), (self.learner.backbone_variables, options.backbone_rate)):
            if variables:
                peak = factor * options.learning_rate
                rate = keras.optimizers.schedules.CosineDecay(
                    0.0, max(1, total - warmup), warmup_target=peak, warmup_steps=warmup
                )
                optimizer = keras.optimizers.AdamW(rate, weight_decay=options.weight_decay)
                optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
                optimizer.build(variables)
                self._groups.append((optimizer, variables))
        self._trained = [variable for _, variables in self._groups for variable in variables]
        momentum = options.weight_average
        self._averages = [tf.Variable(variable.value) for variable in self._trained] if momentum else []
        # XLA's CPU code is slower here than the plain graph.
        self._step = tf.function(self._gradient_step, autograph=False)

    def _gradient_step(self, *batch: Tensor) -> Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([variable.value for variable in self._trained])
            loss = self.learner.loss(*batch)
        gradients = tape.gradient(loss, [variable.value for variable in self._trained])
        gradients, _ = tf.clip_by_global_norm([tf.convert_to_tensor(gradient) for gradient in gradients], 5.0)
        start = 0
        for optimizer, variables in self._groups:
            optimizer.apply(gradients[start : start + len(variables)], variables)
            start += len(variables)
        # The average follows faster at first: it shall forget the weights that training began with.
        momentum = self.options.weight_average
        done = tf.cast(self._groups[0][0].iterations, tf.float32)
        momentum = tf.minimum(momentum, (1.0 + done) / (10.0 + done))
        for average, variable in zip(self._averages, self._trained, strict=False):
            average.assign_add((1.0 - momentum) * (variable.value - average))
        return loss

    def _exchange(self) -> None:
        """Puts the averaged weights in the place of the trained ones, and back."""
        for average, variable in zip(self._averages, self._trained, strict=False):
            trained = tf.identity(variable.value)
            variable.assign(average)
            average.assign(trained)

    def _steps(self, number: int) -> float:
        """One pass over the photographs; the mean loss of its steps."""
        options = self.options
        rng = np.random.default_rng((options.seed, number))
        keras.utils.set_random_seed(options.seed * 10_007 + number)
        losses, started, steps = [], time.monotonic(), self.learner.steps(options.batch_size)
        for step, batch in enumerate(self.learner.batches(options.batch_size, rng)):
            losses.append(float(self._step(*map(tf.convert_to_tensor, batch))))
            if (step + 1) % 50 == 0:
                rate = (step + 1) * options.batch_size / (time.monotonic() - started)
                print(
                    f"epoch {number + 1}/{options.epochs}  step {step + 1}/{steps}  "
                    f"loss {np.mean(losses[-50:]):.3f}  {rate:.0f} photographs/s{self.learner.said()}",
                    flush=True,
                )
        return float(np.mean(losses))

    def _finish(self, epoch: Epoch, best: bool) -> None:
        self.log.append(epoch)
        print(
            f"epoch {epoch.epoch}/{self.options.epochs}  loss {epoch.loss:.3f}  validation CIDEr "
            f"{epoch.validation_cider:.1f}{' (best)' if best else ''}  {epoch.seconds:.0f} s",
            flush=True,
        )
        _to_tensorboard(self.folder / "tensorboard", epoch)
        with (self.folder / "log.jsonl").open("w", encoding="utf-8") as log:
            log.writelines(json.dumps(asdict(line)) + "\n" for line in self.log)
        self._save()

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def _variables(self) -> dict[str, Any]:
        # The learner's variables include the state of dropout's random numbers.
        optimizers = [variable for optimizer, _ in self._groups for variable in optimizer.variables]
        variables = [*self.learner.variables, *optimizers, *self._averages]
        return {f"{number:04d}": variable for number, variable in enumerate(variables)}

    def _save(self) -> None:
        arrays = {name: np.asarray(variable) for name, variable in self._variables().items()}
        partial = self._checkpoint.with_suffix(".partial")
        metadata = {
            "log": json.dumps([asdict(epoch) for epoch in self.log]),
            "options": json.dumps(self.recipe, sort_keys=True),
        }
        save_file(arrays, partial, metadata)
        partial.replace(self._checkpoint)

    def _resume(self) -> None:
        """Takes up the checkpoint, where there is one of the same options."""
        if not self._checkpoint.exists():
            return
        with safe_open(self._checkpoint, framework="numpy") as checkpoint:
            metadata = checkpoint.metadata()
            if json.loads(metadata["options"]) != self.recipe:
                raise ValueError(
                    f"{self._checkpoint} was made with other options, {metadata['options']}; "
                    "give those again to go on, or another --output to start anew"
                )
            for name, variable in self._variables().items():
                variable.assign(checkpoint.get_tensor(name))
            self.log = [Epoch(**epoch) for epoch in json.loads(metadata["log"])]
        print(f"going on after epoch {len(self.log)} of {self._checkpoint}", flush=True)


def _to_tensorboard(folder: Path, epoch: Epoch) -> None:
    """Adds an epoch to TensorBoard's events, where the package is installed."""
    if find_spec("tensorboard"):
        with tf.summary.create_file_writer(str(folder)).as_default():
            tf.summary.scalar("loss", epoch.loss, epoch.epoch)
            tf.summary.scalar("validation_cider", epoch.validation_cider, epoch.epoch)
