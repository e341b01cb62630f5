"""What an array must be to serve as a tensor's memory. Runtimes trust addresses; this does not."""

from math import inf, isnan

import numpy as np

from tidsram.engine.base import Array
from tidsram.protocol.tensors import DATATYPES, TensorSpec


def dtype_of(tensor: TensorSpec) -> np.dtype[np.generic]:
    """Return numpy's type for a tensor's elements."""
    return np.dtype(DATATYPES[tensor.datatype][1])


def zeros(tensor: TensorSpec) -> Array:
    """Return memory for a tensor whose size is known."""
    return np.zeros(tensor.shape, dtype_of(tensor))


def holds_nan(floats: Array) -> bool:
    """Whether there is a NaN among the floats."""
    if floats.dtype == np.float16:  # halves compare slowly; NaN's bits are beyond infinity's
        return bool(((floats.view(np.uint16) & 0x7FFF) > 0x7C00).any())
    # One pass, no warning, no overflow: the largest of numbers and a NaN is NaN.
    return isnan(np.maximum.reduce(floats, axis=None, initial=-inf))


def check_fits(tensor: TensorSpec, array: Array) -> None:
    """Raise ValueError unless `array` is memory for `tensor`: its type and shape, in one piece."""
    fits = len(array.shape) == len(tensor.shape) and all(
        expected in (-1, size) for size, expected in zip(array.shape, tensor.shape, strict=True)
    )
    if not fits or array.dtype != dtype_of(tensor) or not array.flags.c_contiguous:
        raise ValueError(
            f"tensor {tensor.name!r} is {tensor.datatype} {list(tensor.shape)}, in one piece; "
            f"got {array.dtype} {list(array.shape)}"
        )
