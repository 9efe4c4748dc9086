"""The default model's scores on the dev sets, where they lie beside the project."""

from __future__ import annotations

import json

from model.training.evaluate import main
from tests.conftest import shared


def test_dev_scores_of_the_default_model(capsys) -> None:
    sets = [shared("flickr8k") / "dev-00000-of-00001.parquet", shared("everyday") / "coco-dev.parquet"]
    assert main([f"--data={data}" for data in sets]) == 0
    flickr, coco = json.loads(capsys.readouterr().out).values()
    assert (flickr["images"], coco["images"]) == (1000, 300)
    assert flickr["CIDEr"] >= 56.7
    assert flickr["BLEU-4"] >= 21.5
    assert coco["CIDEr"] >= 67.9
    assert coco["BLEU-4"] >= 20.4
    assert flickr["captions"]["% distinct"] >= 85.6
    assert coco["captions"]["% distinct"] >= 93
    assert flickr["captions"]["% with a content word twice"] <= 6.2
    assert coco["captions"]["% with a content word twice"] <= 12.3
    for report in (flickr, coco):
        assert report["captions"]["% ending in an article or a preposition"] == 0
