"""Runs the encoder with OpenVINO, which takes a third less CPU than LiteRT on processors without VNNI.

It reads the file that was converted for LiteRT. Features of an 8-bit encoder differ from LiteRT's by rounding, which
changes a quarter of the captions, but not their scores on average.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.encoder_pool import EncodeImage, EncoderPool, pool_size
from model.engine_choice import EngineError, one_line

_LARGEST_WEIGHT = 127  # of each channel of a converted encoder
# The converter gives channels that hardly depend on their inputs another step, so some of their weights are odd.
_MAX_ODD = 0.01


def open_openvino(content: bytes) -> EncoderPool:
    """Opens a .tflite file, as `model.litert_converter.convert_encoder` returns it, once for each core.

    Raises:
      EngineError: OpenVINO is missing, does not support an operation of the encoder, or its sums would overflow here.
    """
    try:
        compiled = _compile(content)
        return EncoderPool("openvino", [_encode_image(compiled) for _ in range(pool_size())])
    except EngineError:
        raise
    except (ImportError, RuntimeError, ValueError) as error:
        raise EngineError(f"OpenVINO cannot run the encoder: {one_line(error)}") from error


def _compile(content: bytes) -> Any:
    import openvino

    core = openvino.Core()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "encoder.tflite")  # it reads this format from files only
        path.write_bytes(content)
        model = core.read_model(path)
        _avoid_overflow(model)
        cores = pool_size()
        # Without the hint, it computes in bfloat16 where the processor can.
        options = {"NUM_STREAMS": cores, "INFERENCE_NUM_THREADS": cores, "INFERENCE_PRECISION_HINT": "f32"}
        return core.compile_model(model, "CPU", options)


def _encode_image(compiled: Any) -> EncodeImage:
    request = compiled.create_infer_request()

    def encode(image: npt.NDArray[np.uint8]) -> Any:
        request.infer({0: image[None]}, share_inputs=True)
        return request.get_output_tensor(0).data[0].copy()

    return encode


def _avoid_overflow(model: Any) -> None:
    """Halves even weights and doubles their steps, so that the sums of two products fit into 16 bits.

    Raises:
      EngineError: weights are odd, and this processor adds products in 16 bits.
    """
    from openvino import Type, opset13

    kernels = list(_kernels(model))
    weights = [kernel.input_value(0).get_node().data.astype(np.int32) for kernel, _ in kernels]
    odd = sum(np.count_nonzero((kernel % 2 != 0) & (np.abs(kernel) < _LARGEST_WEIGHT)) for kernel in weights)
    if odd > _MAX_ODD * sum(kernel.size for kernel in weights):
        if _adds_products_in_16_bits():
            raise EngineError(
                "the sums of this model's 8-bit weights overflow on a CPU without VNNI; "
                "round them again with `python -m model quantize`"
            )
        return
    for (convert, multiply), kernel in zip(kernels, weights, strict=True):
        halved = np.sign(kernel) * ((np.abs(kernel) + 1) // 2)
        step = multiply.input_value(1).get_node().data
        convert.input(0).replace_source_output(opset13.constant(halved, Type.i8).output(0))
        multiply.input(1).replace_source_output(opset13.constant(2 * step).output(0))


def _kernels(model: Any) -> Iterator[tuple[Any, Any]]:
    """The operations that turn 8-bit weights into values: Constant -> Convert -> Multiply. Depthwise ones are left out.

    OpenVINO computes depthwise convolutions in floating point.
    """
    for operation in model.get_ordered_ops():
        if operation.get_type_name() == "Constant" and operation.get_output_element_type(0).get_type_name() == "i8":
            shape = operation.get_output_shape(0)
            [convert] = [use.get_node() for use in operation.output(0).get_target_inputs()]
            [multiply] = [use.get_node() for use in convert.output(0).get_target_inputs()]
            if len(shape) == 4 and shape[0] > 1:
                yield convert, multiply


def _adds_products_in_16_bits() -> bool:
    """Whether OpenVINO multiplies with `vpmaddubsw`, because the processor has no VNNI."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return True  # unknown
    return not any(name in flags.split() for name in ("avx512_vnni", "avx_vnni"))
