"""`--captioner=keras_hub` with the real library, and a tiny PaliGemma with random weights."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import keras_hub
import numpy as np
import pytest
import sentencepiece
from PIL import Image

from beam_job.captioners.keras_hub_models import open_captioner
from beam_job.cli.command import main
from beam_job.config import JobConfig
from model import Decoding, Picture
from tests.outputs import table

# Keras 3 copies TensorFlow's variables as NumPy 1 did, and KerasHub does not close the file of the vocabulary.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept:DeprecationWarning",
    r"ignore:Exception ignored in. <_io.FileIO name=.*vocabulary\.spm:pytest.PytestUnraisableExceptionWarning",
    "ignore:unclosed file:ResourceWarning",
)
_WORDS = "a the cat dog sits on mat red car in street photo of describe this image one sentence caption en"
_SIDE = 16


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = io.BytesIO()
    special = {"pad": "<pad>", "eos": "<eos>", "bos": "<bos>", "unk": "<unk>"}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([_WORDS] * 3),
        model_writer=words,
        model_type="WORD",
        vocab_size=len(_WORDS.split()) + len(special),
        minloglevel=2,
        **{f"{name}_id": place for place, name in enumerate(special)},
        **{f"{name}_piece": piece for name, piece in special.items()},
    )
    tokenizer = keras_hub.models.PaliGemmaTokenizer(proto=words.getvalue())
    converter = keras_hub.layers.PaliGemmaImageConverter(image_size=(_SIDE, _SIDE), scale=1 / 127.5, offset=-1)
    layers = {"num_layers": 1, "hidden_dim": 16, "intermediate_dim": 32, "head_dim": 8}
    vision = {"patch_size": 8, "num_heads": 2, "hidden_dim": 8, "num_layers": 1, "intermediate_dim": 16}
    backbone = keras_hub.models.PaliGemmaBackbone(
        tokenizer.vocabulary_size(),
        _SIDE,
        num_query_heads=2,
        num_key_value_heads=1,
        **layers,
        **{f"vit_{name}": value for name, value in vision.items()},
    )
    random = np.random.default_rng(0)
    for weight in backbone.weights:
        weight.assign(random.normal(0, 1, weight.shape))
    folder = tmp_path_factory.mktemp("preset") / "tiny"
    preprocessor = keras_hub.models.PaliGemmaCausalLMPreprocessor(tokenizer, converter, sequence_length=32)
    keras_hub.models.PaliGemmaCausalLM(preprocessor, backbone).save_to_preset(str(folder))
    return folder


def pictures(*prompts: str | None) -> list[Picture]:
    random = np.random.default_rng(0)
    return [
        Picture(random.integers(0, 255, (40 + 9 * number, 60, 3), np.uint8), str(number), {}, prompt)
        for number, prompt in enumerate(prompts)
    ]


def test_a_caption_does_not_depend_on_the_batch(preset: Path) -> None:
    decoding = Decoding(method="greedy")
    config = JobConfig(("in",), "out", str(preset), "keras_hub", decoding, max_new_tokens=4, batch_size=4)
    captioner = open_captioner(config, None)
    captioner.load()
    given = pictures("the cat", "photo of a cat on", "a", "the cat")
    together = captioner.caption_pictures(given)
    assert together == [captioner.caption_pictures([picture])[0] for picture in given]
    assert len({caption.text for [caption] in together}) > 1
    assert {caption.score for [caption] in together} == {None}


def test_through_the_job(preset: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for picture in pictures(None, None, None):
        Image.fromarray(picture.pixels).save(tmp_path / "photos" / f"{picture.uri}.png")
    arguments = [f"--input={tmp_path}/photos", f"--output={tmp_path}/out", "--captioner=keras_hub"]
    assert main([*arguments, f"--model={preset}", "--decoding=greedy", "--max_new_tokens=4", "--batch_size=2"]) == 0
    rows = table(tmp_path / "out", "captions")
    assert len({row["caption"] for row in rows}) == 3
    assert [(row["score"], row["model_version"].split("@")[0]) for row in rows] == [(None, "tiny")] * 3


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        pytest.param("", [], "needs --model=PRESET or --model=FOLDER", id="no model"),
        pytest.param("nothing", [], "neither a folder here nor a preset of PaliGemma, such as", id="unknown"),
        pytest.param("gpt2_base_en", [], "nor a preset of PaliGemma", id="text only"),
        pytest.param("empty", [], "has no task.json; give a folder that save_to_preset has written", id="no preset"),
        pytest.param(
            "tiny", ["--num_captions=2"], "gives one caption per image, with --decoding=beam or greedy", id="several"
        ),
    ],
)
def test_what_cannot_be_used_is_one_line(
    model: str,
    options: list[str],
    message: str,
    preset: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(preset, "tiny")
    (tmp_path / "empty").mkdir()
    Image.new("L", (8, 8)).save("a.png")
    assert main(["--input=a.png", "--output=out", "--captioner=keras_hub", f"--model={model}", *options]) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
