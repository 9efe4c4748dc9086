"""The machine's GPUs, and which errors are caused by a device rather than by an image.

Importing this module does not import TensorFlow; some of its functions do.
"""

from __future__ import annotations

import contextlib
import glob
import importlib.util
import os
import re
import sys

# Texts of TensorFlow's errors, and of errors of other types by XLA, CUDA's libraries, JAX and PyTorch.
_OUT_OF_MEMORY = re.compile(
    r"OOM when allocating|RESOURCE_EXHAUSTED|out of memory|_ALLOC_FAILED|not enough memory|can't allocate memory",
    re.IGNORECASE,
)
_DEVICE_FILES = ("/dev/kfd", "/dev/dxg")  # AMD's ROCm, Windows' WSL 2
_DEVICE_ERROR = re.compile(r"CUDA|cuDNN|cuBLAS|UNAVAILABLE", re.IGNORECASE)


class NoGpuError(RuntimeError):
    """A GPU is required and there is none; the message says what to do."""


def open_gpus(required: bool = False) -> int:
    """Configures the GPUs before their first use; returns their number.

    Their memory is allocated as it is needed, so that several processes can share a GPU.

    Raises:
      NoGpuError: `required` is true, and TensorFlow finds no GPU.
    """
    if not required and not _may_have_gpu():
        return 0
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if required and not gpus:
        raise NoGpuError(
            "--require_gpu: TensorFlow sees no GPU on this machine; install the driver and tensorflow[and-cuda] "
            "(--verbose shows what is missing), or omit the option to caption on the CPU"
        )
    for gpu in gpus:
        # TensorFlow refuses once a GPU is in use; the program that uses it has made its own choice.
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, True)
    return len(gpus)


def has_tensor_cores() -> bool:
    """Whether all GPUs multiply float16 several times faster than float32, as NVIDIA's do since Volta."""
    if not _may_have_gpu():
        return False
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    return bool(gpus) and all(detail.get("compute_capability", (0, 0)) >= (7, 0) for detail in details)


def _may_have_gpu() -> bool:
    """Whether TensorFlow could find a GPU. Its own answer takes seconds, so it is asked where a driver is installed."""
    if "tensorflow" in sys.modules:
        return True
    if sys.platform == "darwin":
        return importlib.util.find_spec("tensorflow-plugins") is not None  # Apple's tensorflow-metal
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return (not hidden and bool(glob.glob("/dev/nvidia[0-9]*"))) or any(map(os.path.exists, _DEVICE_FILES))


def default_batch_size() -> int:
    """The default number of images in a batch.

    With InceptionResNetV2, an H100 captions 2,100 images/s in batches of 32, 6,400 in batches of 128, and 6,900 in
    batches of 256; on a CPU, batches larger than 32 are not faster. If 256 images do not fit into the device's memory,
    the job halves the batches.
    """
    return 256 if open_gpus() else 32


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, so that a smaller batch may succeed."""
    return (
        isinstance(error, MemoryError)
        or "ResourceExhaustedError" in _type_names(error)
        or bool(_OUT_OF_MEMORY.search(str(error)))
    )


def is_device_error(error: BaseException) -> bool:
    """Whether the device failed, so that the same images may succeed later."""
    device_errors = {"UnavailableError", "InternalError", "AbortedError", "UnknownError"}
    return is_out_of_memory(error) or bool(device_errors & _type_names(error)) or bool(_DEVICE_ERROR.search(str(error)))


def _type_names(error: BaseException) -> set[str]:
    """Names of the error's types. Comparing names needs no TensorFlow, and XLA's errors have no public type."""
    return {kind.__name__ for kind in type(error).__mro__}
