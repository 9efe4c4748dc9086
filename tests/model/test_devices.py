"""GPUs, as far as a machine without one can show it: a list of pretended ones, and the errors that are a device's."""

from __future__ import annotations

import pytest
import tensorflow as tf

from model.devices import NoGpuError, is_device_error, is_out_of_memory, open_gpus


class PretendedGpus:
    """Stands for `tf.config` on a machine with GPUs: growth can be set until one is used."""

    def __init__(self, count: int, in_use: bool = False) -> None:
        self.devices = [f"GPU:{number}" for number in range(count)]
        self.in_use = in_use
        self.growing: dict[str, bool] = {}

    def list_physical_devices(self, kind: str) -> list[str]:
        return self.devices if kind == "GPU" else ["CPU:0"]

    def set_memory_growth(self, device: str, grow: bool) -> None:
        if self.in_use:
            raise RuntimeError("Physical devices cannot be modified after being initialized")
        self.growing[device] = grow


@pytest.fixture
def machine_with(monkeypatch: pytest.MonkeyPatch):
    def pretend(count: int, in_use: bool = False) -> PretendedGpus:
        gpus = PretendedGpus(count, in_use)
        monkeypatch.setattr(tf.config, "list_physical_devices", gpus.list_physical_devices)
        monkeypatch.setattr(tf.config.experimental, "set_memory_growth", gpus.set_memory_growth)
        return gpus

    return pretend


@pytest.mark.parametrize("required", [True, False])
def test_every_gpu_gives_its_memory_as_it_is_needed(required: bool, machine_with) -> None:
    gpus = machine_with(2)
    assert open_gpus(required) == 2
    assert gpus.growing == {"GPU:0": True, "GPU:1": True}


def test_gpus_already_in_use_stay_as_they_are(machine_with) -> None:
    gpus = machine_with(1, in_use=True)
    assert open_gpus(required=True) == 1
    assert gpus.growing == {}


def test_without_a_gpu_it_goes_on_or_refuses(machine_with) -> None:
    machine_with(0)
    assert open_gpus() == 0
    with pytest.raises(NoGpuError, match="--require_gpu: TensorFlow sees no GPU on this machine; install the driver"):
        open_gpus(required=True)


def test_what_is_neither_memory_nor_device() -> None:
    for error in (ValueError("shape"), tf.errors.InvalidArgumentError(None, None, "shape"), KeyError("word")):
        assert not is_out_of_memory(error)
        assert not is_device_error(error)
