"""The model that ships, on the dev photographs of Flickr8k where they are at hand."""

from __future__ import annotations

import json

from model.training.evaluate import main
from tests.conftest import shared


def test_dev_scores_of_the_model_that_ships(capsys) -> None:
    data = shared("flickr8k") / "dev-00000-of-00001.parquet"
    assert main([f"--data={data}", "--beam_width=3"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["images"] == 1000
    assert scores["BLEU-4"] >= 22.3
    assert scores["CIDEr"] >= 58.3
    assert scores["captions"]["% distinct"] >= 86
    assert scores["captions"]["% with a content word twice"] <= 5
