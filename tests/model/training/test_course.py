"""The course's own way: its data, its backbone, its sizes ("Create Image Captioning Models", Google Cloud)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model import CaptionerConfig
from model.network import build_network
from model.training.data import DataError, read_examples
from tests.conftest import has_package


def test_its_network_at_its_sizes() -> None:
    config = CaptionerConfig(backbone="inception_resnet_v2", input_size=299, max_words=64)
    encoder, decoder = build_network(config, 1_000)
    assert encoder.backbone.output_shape == (None, 8, 8, 1536)
    features = encoder(np.zeros((1, 299, 299, 3), np.uint8))
    assert features.shape == (1, 64, 512)
    assert decoder(np.ones((1, 3, 64), np.int32), features).shape == (1, 3, 64, 1_000)


@pytest.mark.skipif(not has_package("tensorflow_datasets"), reason="needs the extra tfds")
@pytest.mark.filterwarnings("ignore")  # of TensorFlow Datasets
def test_its_data(photographs: dict[str, Path], tmp_path: Path) -> None:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    data = photographs["china.jpg"].read_bytes()
    rows = {
        "image": [data, b"another"],
        "image/filename": ["COCO_train2014_000000000009.jpg", "COCO_train2014_000000000025.jpg"],
        "captions": {"id": [[1, 2], [3, 4]], "text": [["A temple.", "A roof."], ["A giraffe.", "Two giraffes."]]},
    }
    asked = []

    def as_dataset(builder: object, split: str, **_: object) -> tf.data.Dataset:
        asked.append(split)
        return tf.data.Dataset.from_tensor_slices(rows)

    with tfds.testing.mock_data(as_dataset_fn=as_dataset):
        examples = read_examples("tfds:coco_captions", str(tmp_path))
        read_examples("tfds:coco_captions:val[:10%]", str(tmp_path))
        with pytest.raises(DataError, match="set --images=FOLDER, to which the images are written"):
            read_examples("tfds:coco_captions")
        with pytest.raises(DataError, match="tfds:no_such_thing cannot be loaded: DatasetNotFoundError"):
            read_examples("tfds:no_such_thing", str(tmp_path))
        del rows["captions"]
        with pytest.raises(DataError, match=r"lacks image, image/filename or captions/text, .* it has image, image/f"):
            read_examples("tfds:mnist", str(tmp_path))
    assert asked == ["train", "val[:10%]", "train"]
    assert [example.captions for example in examples] == [("A temple.", "A roof."), ("A giraffe.", "Two giraffes.")]
    assert examples[0].read() == data
    assert sorted(path.name for path in tmp_path.iterdir()) == rows["image/filename"]
