"""The machine's accelerators, as TensorFlow sees them, and which of its errors are theirs and not an image's.

TensorFlow is imported where a function needs it, not with this module.
"""

from __future__ import annotations

import contextlib
import re

# TensorFlow's name for it, and the words that XLA, CUDA's libraries and JAX put into errors of other types.
_OUT_OF_MEMORY = re.compile(r"OOM when allocating|RESOURCE_EXHAUSTED|out of memory|_ALLOC_FAILED", re.IGNORECASE)
_OF_THE_DEVICE = re.compile(r"CUDA|cuDNN|cuBLAS|UNAVAILABLE", re.IGNORECASE)


class NoGpuError(RuntimeError):
    """A GPU was asked for and there is none; the message says what to do."""


def open_gpus(required: bool = False) -> int:
    """Readies the GPUs, before their first use; the number of them.

    Their memory is taken as it is needed, not all of it by the first process, so that several processes can share one.

    Raises:
      NoGpuError: `required`, and TensorFlow sees none.
    """
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if required and not gpus:
        raise NoGpuError(
            "--require_gpu: TensorFlow sees no GPU on this machine; install the driver and tensorflow[and-cuda] "
            "(--verbose shows what it looks for), or go without the option to caption on the CPU"
        )
    for gpu in gpus:
        # TensorFlow refuses once a GPU is in use; the program that uses it has decided already.
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, True)
    return len(gpus)


def has_tensor_cores() -> bool:
    """Whether there are GPUs that multiply float16 several times as fast as float32: NVIDIA's, from Volta on."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    return bool(gpus) and all(detail.get("compute_capability", (0, 0)) >= (7, 0) for detail in details)


def default_batch_size() -> int:
    """Images at once where nobody has said how many.

    InceptionResNetV2 on an H100 captions 2,100 images a second with 32 at once, 6,400 with 128 and 6,900 with 256; on a
    CPU 32 are as fast as more. Where 256 do not fit into the device's memory, the job halves them.
    """
    return 256 if open_gpus() else 32


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch may help."""
    return (
        isinstance(error, MemoryError)
        or "ResourceExhaustedError" in _type_names(error)
        or bool(_OUT_OF_MEMORY.search(str(error)))
    )


def is_device_error(error: BaseException) -> bool:
    """Whether the machine is to blame, so that the same images may well get captions another time."""
    of_the_device = {"UnavailableError", "InternalError", "AbortedError", "UnknownError"}
    return (
        is_out_of_memory(error) or bool(of_the_device & _type_names(error)) or bool(_OF_THE_DEVICE.search(str(error)))
    )


def _type_names(error: BaseException) -> set[str]:
    """Names, not types: they need no TensorFlow, and XLA's errors have no public type."""
    return {kind.__name__ for kind in type(error).__mro__}
