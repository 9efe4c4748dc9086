"""Dataflow's machines and GPUs: a table of what fits together and what it costs.

The prices are list prices of batch jobs in us-central1 without discounts, as of November 2026. Those of a vCPU, of a GB
of memory and of disk are from https://cloud.google.com/dataflow/pricing, those of operations on a bucket from
https://cloud.google.com/storage/pricing, which GPU comes with which machine from
https://cloud.google.com/compute/docs/gpus. Those of a GPU are Compute Engine's
(https://cloud.google.com/compute/gpus-pricing) with the fifth on top that Dataflow takes for its older GPUs, so they
are approximate, the H100's most of all: its machines with one GPU are available as Spot and Flex-start only.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

PRICES = "list prices of us-central1, approximate, 2026-11, cloud.google.com/dataflow/pricing"
VCPU_HOUR = 0.056
MEMORY_GB_HOUR = 0.003557
DISK_GB_HOUR = 0.000054
READS = 0.0004 / 1_000  # an object of a bucket fetched (a class B operation)
WRITES = 0.005 / 1_000  # an object created, or a page of 1,000 names listed (a class A operation)


@dataclass(frozen=True)
class Gpu:
    """A GPU of Dataflow.

    Attributes:
      machine: the type with one of them that this job fills best; of an L4 there are larger ones.
      family: in which it can be had at all.
      hour: dollars, without the machine around it.
      images_per_second: that its model takes at most, the default one with its beam of 3, in batches of 32. Derived,
        not measured on it: an H100 took 24,000 in bfloat16, scaled by memory bandwidth (and by half where bfloat16 is
        missing), and no more than 3,900, a third of the greedy captions that TensorFlow's graph decoded there.
      on_demand: whether the machine can be had at any time; otherwise it is sold as Spot and Flex-start only.
    """

    machine: str
    family: str
    hour: float
    images_per_second: float
    on_demand: bool = True


GPUS = {
    "nvidia-tesla-t4": Gpu("n1-standard-8", "n1", 0.42, 1_150),
    "nvidia-l4": Gpu("g2-standard-8", "g2", 0.67, 2_150),
    "nvidia-tesla-a100": Gpu("a2-highgpu-1g", "a2", 3.52, 3_900),
    "nvidia-a100-80gb": Gpu("a2-ultragpu-1g", "a2", 4.71, 3_900),
    "nvidia-h100-80gb": Gpu("a3-highgpu-1g", "a3", 11.76, 3_900, on_demand=False),
}
# The job was measured on two cores, one process of it.
CPU_MACHINE = "n2-standard-2"

_GB_A_VCPU = {"n1-standard": 3.75, "n2-standard": 4, "e2-standard": 4, "g2-standard": 4}
_SIZES = {  # vCPUs, GB of memory
    "a2-highgpu-1g": (12, 85.0),
    "a2-ultragpu-1g": (12, 170.0),
    "a3-highgpu-1g": (26, 234.0),
}
_CUSTOM = re.compile(r"([a-z]\w*-)?custom-(\d+)-(\d+)(?:-ext)?")  # vCPUs, MB of memory


@dataclass(frozen=True)
class Machine:
    """A machine type.

    Attributes:
      name: of Compute Engine.
      vcpus: its number.
      memory_gb: None where this table does not know it.
    """

    name: str
    vcpus: int
    memory_gb: float | None

    def hour(self, disk_gb: int) -> float | None:
        """Dollars with a disk, without a GPU; None where the memory is unknown."""
        if self.memory_gb is None:
            return None
        return self.vcpus * VCPU_HOUR + self.memory_gb * MEMORY_GB_HOUR + disk_gb * DISK_GB_HOUR


def machine_of(name: str) -> Machine | None:
    """The machine type of that name; None where its name does not tell its vCPUs."""
    if name in _SIZES:
        return Machine(name, *_SIZES[name])
    if custom := _CUSTOM.fullmatch(name):
        return Machine(name, int(custom.group(2)), int(custom.group(3)) / 1024)
    match = re.fullmatch(r"([a-z]\w*-[a-z]+)-(\d+)", name)
    if match is None:
        return None
    vcpus = int(match.group(2))
    per_vcpu = _GB_A_VCPU.get(match.group(1))
    return Machine(name, vcpus, None if per_vcpu is None else vcpus * per_vcpu)


def family_of(name: str) -> str:
    """The series of a machine type, such as n1, which a custom type without a series belongs to."""
    return "n1" if name.startswith("custom-") else name.split("-")[0]


def check_gpu(name: str) -> None:
    """Raises ValueError for a GPU that is not in the table."""
    if name not in GPUS:
        near = difflib.get_close_matches(name, GPUS, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"--gpu must be one of {', '.join(GPUS)}, not {name!r}{hint}")
