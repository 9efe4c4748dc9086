"""The training loop: steps, learning rates, averaged weights, and a checkpoint after each epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from model.training.checkpoint import Checkpoint
from model.training.learners import Learner
from model.training.train_options import TrainingOptions

Tensor = Any
_MAX_GRADIENT_NORM = 5.0
_STEPS_PER_LOG_LINE = 50


@dataclass(frozen=True)
class Epoch:
    """The results of an epoch; one line of the training log.

    Attributes:
      epoch: its number, from 1.
      loss: mean over its steps.
      validation_cider: CIDEr times 100 of the validation images, after the epoch.
      seconds: wall-clock time, including validation.
    """

    epoch: int
    loss: float
    validation_cider: float
    seconds: float


class Trainer:
    """Trains a learner; an interrupted training resumes after its last complete epoch.

    Args:
      learner: the variables, the data and the loss.
      options: the training options.
      recipe: everything else that the result depends on, the data included; a checkpoint of another recipe is refused.
      folder: for `checkpoint.safetensors`, `log.jsonl` and, if TensorBoard is installed, its events.
      validate: returns the validation score of the current weights.
      keep: called after each epoch with the best validation score so far.
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
        self.folder = folder
        self.validate = validate
        self.keep = keep
        self.log: list[Epoch] = []
        self._checkpoint = Checkpoint(folder, {**recipe, **asdict(options)})

    def train(self) -> list[Epoch]:
        """Trains to the last epoch and returns the log, one record for each epoch.

        Raises:
          ValueError: the folder holds a checkpoint of another recipe, a damaged one, or another program's log.
          OSError: the folder cannot be written.
        """
        self._prepare()
        self.log = [Epoch(**epoch) for epoch in self._checkpoint.restore(self._variables())]
        if self.log:
            print(f"resumed after epoch {len(self.log)} from {self._checkpoint.path}", flush=True)
        for number in range(len(self.log), self.options.epochs):
            if self._is_stale():
                print(f"stopped: no better epoch among the last {self.options.patience}", flush=True)
                break
            self._epoch(number)
        return self.log

    def _epoch(self, number: int) -> None:
        started = time.monotonic()
        loss = self._steps(number)
        self._swap_averages()
        score = self.validate()
        epoch = Epoch(number + 1, loss, score, time.monotonic() - started)
        best = all(score > earlier.validation_cider for earlier in self.log)
        if best:
            self.keep(epoch)
        self._swap_averages()
        self._finish(epoch, best)

    def _is_stale(self) -> bool:
        scores = [epoch.validation_cider for epoch in self.log]
        patience = self.options.patience
        return bool(patience and scores) and len(scores) - 1 - scores.index(max(scores)) >= patience

    def _prepare(self) -> None:
        """Creates the optimizers, the averages and the graph of a step."""
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
        # Not compiled with XLA, whose CPU code is slower here than the plain graph.
        self._step = tf.function(self._gradient_step, autograph=False)

    def _gradient_step(self, *batch: Tensor) -> Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([variable.value for variable in self._trained])
            loss = self.learner.loss(*batch)
        gradients = tape.gradient(loss, [variable.value for variable in self._trained])
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        gradients, _ = tf.clip_by_global_norm(gradients, _MAX_GRADIENT_NORM)
        start = 0
        for optimizer, variables in self._groups:
            optimizer.apply(gradients[start : start + len(variables)], variables)
            start += len(variables)
        # The momentum is smaller in the first steps, so that the average forgets the initial weights.
        momentum = self.options.weight_average
        steps = tf.cast(self._groups[0][0].iterations, tf.float32)
        momentum = tf.minimum(momentum, (1.0 + steps) / (10.0 + steps))
        for average, variable in zip(self._averages, self._trained, strict=False):
            average.assign_add((1.0 - momentum) * (variable.value - average))
        return loss

    def _swap_averages(self) -> None:
        """Exchanges the trained weights and their averages."""
        for average, variable in zip(self._averages, self._trained, strict=False):
            trained = tf.identity(variable.value)
            variable.assign(average)
            average.assign(trained)

    def _steps(self, number: int) -> float:
        """One pass over the images; returns the mean loss of its steps."""
        options = self.options
        rng = np.random.default_rng((options.seed, number))
        losses, started, steps = [], time.monotonic(), self.learner.steps(options.batch_size)
        for step, batch in enumerate(self.learner.batches(options.batch_size, rng)):
            losses.append(float(self._step(*map(tf.convert_to_tensor, batch))))
            if (step + 1) % _STEPS_PER_LOG_LINE == 0:
                rate = (step + 1) * options.batch_size / (time.monotonic() - started)
                print(
                    f"epoch {number + 1}/{options.epochs}  step {step + 1}/{steps}  "
                    f"loss {np.mean(losses[-_STEPS_PER_LOG_LINE:]):.3f}  {rate:.0f} images/s{self.learner.progress()}",
                    flush=True,
                )
        return float(np.mean(losses))

    def _finish(self, epoch: Epoch, best: bool) -> None:
        """Logs an epoch and writes the checkpoint."""
        self.log.append(epoch)
        print(
            f"epoch {epoch.epoch}/{self.options.epochs}  loss {epoch.loss:.3f}  validation CIDEr "
            f"{epoch.validation_cider:.1f}{' (best)' if best else ''}  {epoch.seconds:.0f} s",
            flush=True,
        )
        self._checkpoint.save(self._variables(), [asdict(line) for line in self.log])
        if find_spec("tensorboard"):
            _write_tensorboard(self.folder / "tensorboard", epoch)

    def _variables(self) -> dict[str, Any]:
        """The variables of a checkpoint; the learner's include the state of the dropout's random numbers."""
        optimizers = [variable for optimizer, _ in self._groups for variable in optimizer.variables]
        variables = [*self.learner.variables, *optimizers, *self._averages]
        return {f"{number:04d}": variable for number, variable in enumerate(variables)}


def _write_tensorboard(folder: Path, epoch: Epoch) -> None:
    with tf.summary.create_file_writer(str(folder)).as_default():
        tf.summary.scalar("loss", epoch.loss, epoch.epoch)
        tf.summary.scalar("validation_cider", epoch.validation_cider, epoch.epoch)
