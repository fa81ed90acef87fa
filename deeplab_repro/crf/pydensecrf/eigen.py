"""The vectors and matrices of ``pydensecrf.eigen``, as numpy arrays."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["MatrixXf", "VectorXf", "matrixXf", "typed_array", "vectorXf"]


_T = TypeVar("_T", bound="_Floats")


class _Floats(np.ndarray[Any, np.dtype[np.float32]]):
    """As with pydensecrf, ``np.array(x)`` copies, and ``np.asarray(x)`` and ``memoryview(x)`` share
    the memory.  That it is an array is more than pydensecrf offers: before Python 3.12 there is no
    other way to lend a buffer without C.
    """

    _axes: int

    def __new__(cls: type[_T]) -> _T:
        """An empty one."""
        return cls.of(np.zeros((0,) * cls._axes, np.float32))

    @classmethod
    def of(cls: type[_T], values: NDArray[np.float32]) -> _T:
        """Share the memory of ``values``."""
        return values.view(cls)


class VectorXf(_Floats):
    """A float32 vector; an empty one where it is called."""

    _axes = 1


class MatrixXf(_Floats):
    """A float32 matrix, (labels, points) where a CRF makes it; an empty one where it is called."""

    _axes = 2


def vectorXf(arr: NDArray[np.float32]) -> VectorXf:
    """A copy of a contiguous float32 array (n,)."""
    return VectorXf.of(typed_array("arr", arr, np.float32, 1).copy())


def matrixXf(arr: NDArray[np.float32]) -> MatrixXf:
    """A copy of a contiguous float32 array (rows, columns)."""
    return MatrixXf.of(typed_array("arr", arr, np.float32, 2).copy())


def typed_array(name: str, value: Any, dtype: type, axes: int) -> NDArray[Any]:
    """What Cython's typed memoryviews accept; read-only arrays too, which those refuse."""
    if value is None:
        raise TypeError(f"{name} must not be None")
    if not isinstance(value, np.ndarray):
        value = np.asarray(memoryview(value))
    if value.ndim != axes:
        raise ValueError(
            f"{name} has wrong number of dimensions (expected {axes}, got {value.ndim})"
        )
    if value.dtype != dtype:
        raise ValueError(
            f"{name}: buffer dtype mismatch, expected {np.dtype(dtype)} but got {value.dtype};"
            f" use {name}.astype(np.{np.dtype(dtype)})"
        )
    if not value.flags.c_contiguous:
        raise ValueError(f"{name} is not C-contiguous; use np.ascontiguousarray({name})")
    return value
