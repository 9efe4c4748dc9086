"""The three ways of learning: what each changes, what it may not change, and where it leads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from model.bundle import load_captioner
from model.training.augment import augment
from model.training.blend import main as blend
from model.training.reward import CiderD, UnigramF
from model.training.train import main
from model.vocabulary import END
from tests.model.small_training import SMALL, log_of, train

STEM = "encoder/backbone/000/kernel"


def weights(bundle: Path) -> dict[str, np.ndarray]:
    return load_file(bundle / "weights.safetensors")


@pytest.fixture(scope="module")
def begun(parquet: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that has seen the photographs a few times."""
    bundle = tmp_path_factory.mktemp("begun") / "bundle"
    assert train(parquet, bundle, "--epochs=12", "--learning_rate=0.003", "--dropout=0", "--batch_size=2") == 0
    return bundle


def go_on(parquet: str, begun: Path, output: Path, *options: str) -> int:
    data = [f"--data={parquet}", f"--validation={parquet}", f"--output={output}", f"--init={begun}"]
    return main([*data, "--batch_size=3", "--dropout=0", *options])


def test_fine_tuning_changes_the_upper_backbone_only(parquet: str, begun: Path, tmp_path: Path) -> None:
    output = tmp_path / "tuned"
    assert go_on(parquet, begun, output, "--method=finetune", "--epochs=2", "--tuned_share=0.3") == 0
    before, after = weights(begun), weights(output)
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert "decoder/gru/kernel" in moved
    backbone = sorted({name.split("/")[2] for name in before if name.startswith("encoder/backbone/")})
    upper = {name.split("/")[2] for name in moved if name.startswith("encoder/backbone/")}
    assert upper
    assert min(upper) >= backbone[round(len(backbone) * 0.7) - 1]
    statistics = {name for name in moved if "moving_" in name}
    assert not statistics  # a batch of three is too small to measure them


@pytest.mark.parametrize("method", ["frozen", "finetune", "self_critical"])
def test_a_network_in_bfloat16_learns_into_float32_weights(
    method: str, parquet: str, begun: Path, tmp_path: Path
) -> None:
    output = tmp_path / "mixed"
    options = [f"--method={method}", "--precision=bfloat16", "--epochs=1", "--views=3", "--tuned_share=0.1"]
    options.append("--decoder_precision=bfloat16")
    assert go_on(parquet, begun, output, *options) == 0
    before, after = weights(begun), weights(output)
    changed = np.abs(after["encoder/projection/kernel"].astype(float) - before["encoder/projection/kernel"])
    assert 0 < changed.max() < 0.1
    assert np.isfinite(log_of(output)[0]["loss"])


def test_rewarded_captions_become_likelier(parquet: str, begun: Path, tmp_path: Path) -> None:
    output = tmp_path / "rewarded"
    options = ["--method=self_critical", "--epochs=25", "--forcing=0", "--learning_rate=0.003", "--batch_size=6"]
    options += ["--f_weight=1", "--likeness_weight=0.5"]
    assert go_on(parquet, begun, output, *options) == 0
    losses = [epoch["loss"] for epoch in log_of(output)]
    assert len(losses) == 25
    best = max(epoch["validation_cider"] for epoch in log_of(output))
    assert best > max(epoch["validation_cider"] for epoch in log_of(begun))
    before, after = weights(begun), weights(output)
    assert all(np.array_equal(before[name], after[name]) for name in before if name.startswith("encoder/backbone/"))


def test_a_larger_picture_is_learnt_from_where_the_bundle_took_a_smaller_one(
    parquet: str, begun: Path, tmp_path: Path
) -> None:
    options = ["--input_size=96", "--smallest_crop=0.9", "--epochs=1", "--views=3"]
    assert go_on(parquet, begun, tmp_path / "larger", *options) == 0
    larger = load_captioner(tmp_path / "larger")
    assert (larger.config.input_size, load_captioner(begun).config.input_size) == (96, 64)
    [features] = (tmp_path / "larger.training").glob("train-*.npy")
    assert np.load(features).shape[:3] == (6, 3, 9)  # photographs, views, grid


def test_trainings_of_one_backbone_share_its_features(parquet: str, begun: Path, tmp_path: Path) -> None:
    cache = [f"--cache_features={tmp_path}/cache", "--epochs=1"]
    assert go_on(parquet, begun, tmp_path / "first", *cache) == 0
    assert go_on(parquet, tmp_path / "first", tmp_path / "second", *cache, "--seed=1") == 0  # another decoder
    assert go_on(parquet, begun, tmp_path / "third", *cache, "--views=1") == 0
    kept = sorted(path.name.partition("-")[0] for path in (tmp_path / "cache").iterdir())
    assert kept == ["train", "train", "validation"]  # of two views, and of one


def test_a_length_penalty_does_not_outlive_the_weights_it_was_chosen_for(
    parquet: str, begun: Path, tmp_path: Path
) -> None:
    assert blend([str(begun), "--length_penalty=3", f"--output={tmp_path}/longer"]) == 0
    assert load_captioner(tmp_path / "longer").config.length_penalty == 3
    assert go_on(parquet, tmp_path / "longer", tmp_path / "on", "--epochs=1") == 0
    assert load_captioner(tmp_path / "on").config.length_penalty == 1


def test_averaged_weights_lie_on_the_way_of_the_steps(parquet: str, begun: Path, tmp_path: Path) -> None:
    last, average = tmp_path / "last", tmp_path / "average"
    one_step = ["--epochs=1", "--batch_size=6", "--learning_rate=0.05"]
    assert go_on(parquet, begun, last, *one_step) == 0
    assert go_on(parquet, begun, average, *one_step, "--weight_average=0.9") == 0
    name = "decoder/gru/kernel"
    start, end, kept = (weights(bundle)[name].astype(float) for bundle in (begun, last, average))
    assert np.abs(end - start).max() > 0.01
    # The momentum grows from 2 / 11 at the first step towards 0.9.
    np.testing.assert_allclose(kept, start + 9 / 11 * (end - start), atol=2e-3)


def test_training_stops_when_it_leads_nowhere(parquet: str, tmp_path: Path, capsys) -> None:
    options = ["--epochs=30", "--patience=2", "--learning_rate=0.00001"]
    assert train(parquet, tmp_path / "bundle", *options) == 0
    assert len(log_of(tmp_path / "bundle")) < 30
    assert "stopped: no better epoch among the last 2" in capsys.readouterr().out
    assert (tmp_path / "bundle" / "SHA256SUMS").exists()


def test_a_checkpoint_of_another_method_is_refused(parquet: str, begun: Path, tmp_path: Path, capsys) -> None:
    assert go_on(parquet, begun, tmp_path / "out", "--epochs=1") == 0
    assert go_on(parquet, begun, tmp_path / "out", "--epochs=1", "--method=self_critical") == 2
    assert "made with other options" in capsys.readouterr().err


def test_one_drawn_caption_has_none_to_be_compared_with(parquet: str, begun: Path, tmp_path: Path, capsys) -> None:
    assert go_on(parquet, begun, tmp_path / "out", "--method=self_critical", "--samples=1") == 2
    assert "samples must be a whole number from 2, not 1" in capsys.readouterr().err


def test_no_view_is_none(parquet: str, begun: Path, tmp_path: Path, capsys) -> None:
    assert go_on(parquet, begun, tmp_path / "none", "--views=0") == 2
    assert "views must be a whole number from 1, not 0" in capsys.readouterr().err


def test_a_lost_bundle_to_go_on_from_is_one_line(parquet: str, tmp_path: Path, capsys) -> None:
    assert main([f"--data={parquet}", f"--output={tmp_path}/out", f"--init={tmp_path}/lost", *SMALL]) == 2
    assert "lost" in capsys.readouterr().err


def test_changed_photographs_are_parts_of_the_photograph() -> None:
    left_to_right = np.tile(np.linspace(0, 200, 64, dtype=np.uint8)[None, None, :, None], (40, 64, 1, 3))
    seen = augment(left_to_right, 56, np.random.default_rng(0)).astype(int)
    assert seen.shape == (40, 56, 56, 3)
    slope = np.sign(seen[:, :, -1, 0] - seen[:, :, 0, 0])
    assert np.all(slope == slope[:, :1])  # a picture is mirrored as a whole
    assert {-1, 1} == set(slope[:, 0].tolist())
    assert len({picture.tobytes() for picture in seen}) == 40
    assert np.ptp(seen, axis=2).min() < 0.85 * 200
    hardly = augment(left_to_right, 56, np.random.default_rng(0), smallest_crop=1.0).astype(int)
    assert np.ptp(hardly, axis=2).min() > 0.85 * 0.8 * 200  # whole, but for the light
    again = augment(left_to_right, 56, np.random.default_rng(0))
    np.testing.assert_array_equal(again, seen)


def test_reward_is_cider_d() -> None:
    references = [[(5, 6, 7, 8, END)], [(5, 9, 7, END)], [(10, 11, END)]]
    reward = CiderD(references)
    assert reward(0, (5, 6, 7, 8, END)) == pytest.approx(10.0)  # as people say it
    assert reward(0, (12, 13, 14, 15, END)) == 0
    longer, cut = reward(0, (5, 6, 7, 8, 8, END)), reward(0, (5, 6, 7, 8))
    assert 0 < longer < 10
    assert 0 < cut < 10  # does not end where people end
    # By hand, of (10, 11, END) for the third image but for END, which all have (weight 0): "10" and "10 11" stay.
    rare = np.log(3)
    unigrams = rare**2 / (rare * np.sqrt(2 * rare**2))  # "10" of "10", "11"
    assert CiderD(references)(2, (10, END)) == pytest.approx(10 / 4 * unigrams * np.exp(-1 / 72), rel=1e-6)


def test_likeness_is_with_captions_of_other_images() -> None:
    cider = CiderD([[(5, 6, END)], [(7, 8, END)], [(9, 10, END)]])
    common, half, alone = (5, 6, END), (5, 8, END), (9, 10, END)
    likeness = cider.likeness([[common, common], [common, half], [alone, alone]])
    # Of its own image the same words do not count; of the four others, one is the same and one has a word of it.
    same, shared = 10 / 4 * 3, 10 / 4 * 1 / 2  # n-grams of 1 to 3 words, END among them; and one word of two
    assert likeness[0] == pytest.approx([(same + shared) / 4] * 2)
    assert likeness[1] == pytest.approx([2 * same / 4, 2 * shared / 4])
    assert likeness[2] == pytest.approx([0, 0])
    assert cider.likeness([[common, half]]) == [[0, 0]]  # no other image


def test_reward_of_words_by_hand() -> None:
    the, cat, sits, sleeps = 4, 5, 6, 7
    reward = UnigramF([[(the, cat, sits, END)], [(sleeps,)]], frozenset({the, END}))
    assert reward(0, (the, cat, sits, END)) == pytest.approx(1.0)
    assert reward(0, (sleeps,)) == 0
    # Content words count 1, others 1/3: of "the cat" all is in the reference, of the reference 4/3 out of 8/3.
    assert reward(0, (the, cat)) == pytest.approx(0.5 / (0.85 + 0.15 * 0.5))
    # More of what people say is worth more than less of what they do not say.
    assert reward(0, (the, cat, sits, sleeps, END)) > reward(0, (cat, sits))
