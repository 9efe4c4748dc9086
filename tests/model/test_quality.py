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
    assert flickr["CIDEr"] >= 58.1
    assert flickr["BLEU-4"] >= 22.0
    assert coco["CIDEr"] >= 72.6
    assert coco["BLEU-4"] >= 21.4
    assert flickr["captions"]["% distinct"] >= 88.2
    assert coco["captions"]["% distinct"] >= 91.7
    for report in (flickr, coco):
        assert report["captions"]["% with a content word twice"] == 0
        assert report["captions"]["% ending in an article or a preposition"] == 0
