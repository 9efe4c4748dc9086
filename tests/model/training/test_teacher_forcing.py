"""The loss of teacher forcing."""

from __future__ import annotations

import numpy as np
import pytest

from model.training.teacher_forcing import cross_entropy


def test_loss_by_hand() -> None:
    # P(word 4) = 1/2 of V = 5 with the rest at 1/8 each.
    logits = np.log([[1 / 8, 1 / 8, 1 / 8, 1 / 8, 1 / 2]]).astype(np.float32)
    words = np.array([4], np.int32)
    assert float(cross_entropy(words, logits, 0.0)) == pytest.approx(np.log(2), rel=1e-5)
    spread = (4 * np.log(8) + np.log(2)) / 5
    assert float(cross_entropy(words, logits, 0.1)) == pytest.approx(0.9 * np.log(2) + 0.1 * spread, rel=1e-5)
