"""`--captioner=transformers` with the real libraries, and tiny models with random weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from beam_job.captioners import transformers_generator
from beam_job.captioners.transformers_models import open_captioner
from beam_job.cli.command import main
from beam_job.config import JobConfig
from model import CaptionerError, Decoding, Picture
from tests import tiny_models
from tests.outputs import table

# Libraries that PyTorch and transformers import warn about themselves.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ImportWarning")
PHOTOS = 3
KINDS = {
    "blip": tiny_models.save_blip,
    "encoder-decoder": tiny_models.save_vision_encoder_decoder,
    "chat": tiny_models.save_chat,
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """More only wait for each other in models as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    saves = KINDS | {"git": tiny_models.save_git}
    return {kind: save(tmp_path_factory.mktemp(kind) / "tiny") for kind, save in saves.items()}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(PHOTOS):
        pixels = random.integers(0, 255, (40 + 9 * number, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def pictures(photos: Path, prompts: list[str] | None = None) -> list[Picture]:
    files = sorted(photos.iterdir())
    asked = prompts or [None] * len(files)
    return [
        Picture(np.asarray(Image.open(path)), str(path), {}, prompt) for path, prompt in zip(files, asked, strict=True)
    ]


def opened(model: Path, **decoding: object) -> transformers_generator.Generator:
    config = config_of(model, decoding=Decoding(**decoding))
    captioner = open_captioner(config, None)
    captioner.load()
    return captioner


def config_of(model: object, **options: object) -> JobConfig:
    return JobConfig(("in",), "out", model=str(model), captioner="transformers", **{"max_new_tokens": 7} | options)


def run(photos: Path, output: Path, model: object, *options: str) -> int:
    arguments = [f"--input={photos}", f"--output={output}", "--captioner=transformers", f"--model={model}"]
    return main([*arguments, "--max_new_tokens=7", *options])


def test_a_batch_of_one_and_of_eight_give_the_same_rows(models, photos: Path, tmp_path: Path) -> None:
    found = []
    for size in (1, 8):
        assert run(photos, tmp_path / str(size), models["blip"], f"--batch_size={size}", "--num_captions=2") == 0
        found.append(table(tmp_path / str(size), "captions"))
    one, eight = found
    assert len(one) == PHOTOS
    assert [row["captions"] for row in one] == [row["captions"] for row in eight]
    assert len({row["caption"] for row in one}) > 1
    assert np.ravel([row["scores"] for row in one]) == pytest.approx(
        np.ravel([row["scores"] for row in eight]), abs=1e-4
    )
    [version] = {row["model_version"] for row in one + eight}
    assert version.startswith("tiny@")
    [summary] = (json.loads(path.read_text()) for path in tmp_path.glob("8/runs/*/summary.json"))
    assert [(entry["engine"], entry["batch_size"]) for entry in summary["ran_with"]] == [("torch", 8)]
    assert summary["counts"]["tokens_out"] > 10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "decoding",
    [
        pytest.param({"method": "beam", "num_captions": 2}, id="beam"),
        pytest.param({"method": "greedy"}, id="greedy"),
        pytest.param({"method": "sample", "num_captions": 3, "seed": 5}, id="sample"),
    ],
)
def test_a_caption_does_not_depend_on_the_batch(kind: str, decoding: dict, models, photos: Path) -> None:
    captioner = opened(models[kind], **decoding)
    together = captioner.caption_pictures(pictures(photos))
    alone = [captioner.caption_pictures([picture])[0] for picture in pictures(photos)]
    for some, others in zip(together, alone, strict=True):
        assert len(some) == decoding.get("num_captions", 1)
        assert [caption.text for caption in some] == [caption.text for caption in others]
        assert [caption.score for caption in some] == pytest.approx([caption.score for caption in others], abs=1e-4)
        assert all(caption.score < 0 for caption in some)


def test_the_score_is_the_mean_log_probability(models, photos: Path) -> None:
    """The log-probability by BLIP's decoder itself."""
    captioner = opened(models["blip"], method="greedy")
    [[caption]] = captioner.caption_pictures(pictures(photos)[:1])
    generator = captioner._generator
    words = generator._tokenizer(caption.text, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[2, *words, 3]])[:, :8]  # a start, at most seven tokens
    model = generator._model
    with torch.inference_mode():
        image = generator._inputs(pictures(photos)[:1])["pixel_values"]
        states = model.vision_model(image)[0]
        start = ids.clone()
        start[:, 0] = model.decoder_input_ids
        logits = model.text_decoder(input_ids=start[:, :-1], encoder_hidden_states=states).logits
    logs = torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None])
    assert caption.score == pytest.approx(float(logs.mean()), abs=1e-4)


def test_a_seed_decides_what_is_sampled(models, photos: Path) -> None:
    texts = [
        [
            caption.text
            for found in opened(models["blip"], method="sample", seed=seed).caption_pictures(pictures(photos))
            for caption in found
        ]
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("kind", ["blip", "chat", "git"])
def test_prompts_change_captions_and_not_those_of_other_pictures(kind: str, models, photos: Path) -> None:
    captioner = opened(models[kind])
    plain = captioner.caption_pictures(pictures(photos))
    prompts = ["a photo of", "the", "describe this image in brief"]
    together = captioner.caption_pictures(pictures(photos, prompts))
    alone = [captioner.caption_pictures([picture])[0] for picture in pictures(photos, prompts)]
    said = [[found[0].text for found in answers] for answers in (plain, together, alone)]
    assert said[1] == said[2]
    assert said[0] != said[1]


def test_the_version_covers_weights_prompt_and_decoding_and_nights_work(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = tiny_models.save_blip(tmp_path / "tiny")
    assert run(photos, tmp_path / "out", model) == 0
    assert run(photos, tmp_path / "out", model) == 0
    assert f"nothing to do: {PHOTOS} images already done" in capfd.readouterr().err
    assert run(photos, tmp_path / "out", model, "--prompt=a photo of") == 0
    assert run(photos, tmp_path / "out", model, "--decoding=greedy") == 0
    assert run(photos, tmp_path / "out", model, "--max_new_tokens=6") == 0
    tiny_models.save_blip(model, seed=1)
    assert run(photos, tmp_path / "out", model) == 0
    rows = table(tmp_path / "out", "captions")
    assert len(rows) == 5 * PHOTOS
    assert len({row["model_version"] for row in rows}) == 5


def remote_code(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"model_type": "unheard_of", "auto_map": {"AutoConfig": "code.Config"}}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "code.py").write_text("raise SystemExit('it was run')")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def text_only(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert"}')


def damaged(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"no tensors")


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "code", "message"),
    [
        pytest.param(remote_code, 2, "it needs its own Python code, which is not run", id="remote code"),
        pytest.param(pickled, 2, "has no weights as safetensors; other formats can run code", id="pickle"),
        pytest.param(text_only, 2, "it is not an image-to-text model", id="text only"),
        pytest.param(damaged, 1, "cannot be loaded: SafetensorError", id="damaged"),
        pytest.param(without_config, 2, "has no config.json, so transformers cannot load it", id="no config"),
        pytest.param(shutil.rmtree, 2, "is neither a folder here nor a name like ORGANIZATION/NAME", id="nowhere"),
    ],
)
def test_a_model_that_cannot_be_used_is_one_line(
    spoil: Callable[[Path], None],
    code: int,
    message: str,
    models,
    photos: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = shutil.copytree(models["blip"], tmp_path / "model")
    spoil(model)
    assert run(photos, tmp_path / "out", model) == code
    lines = capfd.readouterr().err.strip().splitlines()
    assert message in lines[-1]
    assert not [line for line in lines if "Traceback" in line]
    assert list((tmp_path / "out").glob("failures/*/*")) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--prompt=What?"], "takes no --prompt: its decoder (vision-encoder-decoder)", id="prompt"),
        pytest.param(["--engine=litert"], "cannot be combined with --captioner", id="engine"),
    ],
)
def test_options_that_it_does_not_take(
    options: list[str], message: str, models, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(photos, tmp_path / "out", models["encoder-decoder"], *options) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_must_be_named(photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([f"--input={photos}", f"--output={tmp_path}/out", "--captioner=transformers"]) == 2
    assert "needs --model=REPOSITORY[@REVISION] or --model=FOLDER" in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["blip", "encoder-decoder"])
def test_captions_longer_than_the_model_can_make_are_refused(kind: str, models) -> None:
    with pytest.raises(CaptionerError, match=r"--max_new_tokens=128 is too many .* has 128 positions; give fewer"):
        open_captioner(config_of(models[kind], max_new_tokens=128), None).load()


def test_too_little_memory_halves_the_batch(
    models, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = transformers_generator.Generator._generate

    def generate_one_at_a_time(self: object, group: list[Picture]) -> object:
        if len(group) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return generate(self, group)

    monkeypatch.setattr(transformers_generator.Generator, "_generate", generate_one_at_a_time)
    assert run(photos, tmp_path / "out", models["blip"], "--batch_size=2") == 0
    assert len(table(tmp_path / "out", "captions")) == PHOTOS
    assert "the device ran out of memory with 2 images in a batch; continuing with 1" in capfd.readouterr().err


def test_a_gpu_that_is_required_and_missing_is_one_line(
    models, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert run(photos, tmp_path / "out", models["blip"], "--require_gpu") == 2
    assert "--require_gpu: PyTorch sees no GPU here" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
