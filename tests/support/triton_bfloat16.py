"""Teaches Triton's interpreter bfloat16; imported by programs that it runs.

It keeps such values as uint16 bit patterns. `tl.dot` multiplies those as whole numbers (a
product of ones is not the number of its terms), and a float32 whose mantissa rounds up to the
next power of two loses the carry. Triton's guide calls bfloat16 unsupported there, so this
is not a fault of a kernel, which a GPU runs with the right types.
"""

from typing import Any

import numpy as np
import torch
import triton.language as tl  # type: ignore[import-untyped]
from triton.runtime import interpreter  # type: ignore[import-untyped]

_convert = interpreter._convert_float
_create_dot = interpreter.InterpreterBuilder.create_dot


def _widened(bits: Any) -> np.ndarray:
    """float32 of bit patterns of bfloat16, uint16."""
    return (np.ascontiguousarray(bits).astype(np.uint32) << 16).view(np.float32)


def _narrowed(values: Any) -> np.ndarray:
    """Bit patterns, uint16, of float32 rounded to the nearest bfloat16, as a GPU rounds."""
    rounded = torch.from_numpy(np.ascontiguousarray(values, np.float32)).bfloat16()
    return rounded.view(torch.int16).numpy().view(np.uint16)


def _convert_float(values: Any, source: Any, target: Any, rounding: Any) -> np.ndarray:
    if (source, target) == (tl.bfloat16, tl.float32):
        return _widened(values)
    if (source, target) == (tl.float32, tl.bfloat16):
        return _narrowed(values)
    return _convert(values, source, target, rounding)  # type: ignore[no-any-return]


def _dot(self: Any, a: Any, b: Any, *others: Any) -> Any:
    a, b = (
        interpreter.TensorHandle(_widened(each.data), tl.float32)
        if each.dtype.scalar == tl.bfloat16
        else each
        for each in (a, b)
    )
    return _create_dot(self, a, b, *others)


interpreter._convert_float = _convert_float
interpreter.InterpreterBuilder.create_dot = _dot
