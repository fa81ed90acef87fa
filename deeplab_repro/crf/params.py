"""Parameters of the dense CRF, and those of every released DeepLab model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, Final, TypeAlias

__all__ = ["Bilateral", "CRFParams"]

#: One number for all axes or channels, or one for each.
Std: TypeAlias = float | tuple[float, ...]


@dataclass(frozen=True)
class Bilateral:
    """One bilateral kernel: ``w * exp(-|dp|^2 / (2 xy_std^2) - |dI|^2 / (2 rgb_std^2))``.

    Attributes:
        w: weight.
        xy_std: pixels; a number or (x, y).
        rgb_std: in the image's units, grey levels 0..255 as a rule; a number or one per channel.

    Raises:
        ValueError: a weight that is not finite, a std that is not positive.
        TypeError: no number.
    """

    w: float
    xy_std: Std
    rgb_std: Std

    def __post_init__(self) -> None:
        _set(self, "w", _number("w", self.w))
        _set(self, "xy_std", _std("xy_std", self.xy_std, 2))
        _set(self, "rgb_std", _std("rgb_std", self.rgb_std))


@dataclass(frozen=True)
class CRFParams:
    """What DeepLab's programs are told: a spatial kernel and a bilateral one, Potts, 10 iterations.

    The defaults are those of ``run_densecrf.sh`` as it came with DeepLab v2.  A kernel of weight 0
    takes no part.

    Attributes:
        iterations: mean field steps.
        pos_w, pos_xy_std: weight and std (pixels; a number or (x, y)) of the spatial kernel.
        bi_w, bi_xy_std, bi_rgb_std: of the bilateral kernel; see :class:`Bilateral`.
        extra: further bilateral kernels.

    Raises:
        ValueError: iterations below 0, weights that are not finite, stds that are not positive.
        TypeError: no number.

    >>> CRFParams.named("deeplab_v2_resnet101").bi_xy_std
    67.0
    """

    iterations: int = 10
    pos_w: float = 3.0
    pos_xy_std: Std = 3.0
    bi_w: float = 4.0
    bi_xy_std: Std = 49.0
    bi_rgb_std: Std = 5.0
    extra: tuple[Bilateral, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.iterations, bool) or not isinstance(self.iterations, Integral):
            raise TypeError(f"iterations must be a whole number, got {self.iterations!r}")
        if self.iterations < 0:
            raise ValueError(f"iterations must be at least 0, got {self.iterations}")
        _set(self, "iterations", int(self.iterations))
        for name in ("pos_w", "bi_w"):
            _set(self, name, _number(name, getattr(self, name)))
        for name in ("pos_xy_std", "bi_xy_std"):
            _set(self, name, _std(name, getattr(self, name), 2))
        _set(self, "bi_rgb_std", _std("bi_rgb_std", self.bi_rgb_std))
        _set(self, "extra", tuple(self.extra))
        for kernel in self.extra:
            if not isinstance(kernel, Bilateral):
                raise TypeError(f"extra must hold Bilateral kernels, got {kernel!r}")

    @property
    def bilaterals(self) -> tuple[Bilateral, ...]:
        """The bilateral kernels: the named one, then :attr:`extra`."""
        return (Bilateral(self.bi_w, self.bi_xy_std, self.bi_rgb_std), *self.extra)

    @property
    def weights(self) -> tuple[float, ...]:
        """Weights of all kernels in order: spatial, bilateral, extra ones."""
        return (self.pos_w, self.bi_w, *(kernel.w for kernel in self.extra))

    @classmethod
    def named(cls, name: str) -> CRFParams:
        """The parameters of a released model; ``names()`` lists them.

        Raises:
            ValueError: no such name.
        """
        if name not in _RELEASED:
            close = get_close_matches(name, _RELEASED, n=3)
            known = ", ".join(_RELEASED)
            hint = f"did you mean {' or '.join(close)}?" if close else f"expected one of {known}"
            raise ValueError(f"no CRF parameters are named {name!r}; {hint}")
        bi_w, bi_xy_std, bi_rgb_std, pos_w, pos_xy_std = _RELEASED[name]
        return cls(10, pos_w, pos_xy_std, bi_w, bi_xy_std, bi_rgb_std)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names that :meth:`named` knows."""
        return tuple(_RELEASED)


#: bi_w, bi_xy_std, bi_rgb_std, pos_w, pos_xy_std; always 10 iterations.
_RELEASED: Final[dict[str, tuple[float, float, float, float, float]]] = {
    # DeepLab v1.  The first three: matlab/my_script/SetupEnv.m; LargeFOV: the project page.
    "deeplab": (5, 50, 10, 3, 3),
    "deeplab_msc": (3, 95, 3, 3, 3),
    "deeplab_coco": (5, 67, 3, 3, 3),
    "deeplab_largefov": (4, 121, 5, 3, 3),
    "deeplab_msc_largefov": (4, 83, 5, 3, 3),
    "deeplab_coco_largefov": (5, 69, 5, 3, 3),
    "deeplab_msc_coco_largefov": (4, 59, 5, 3, 3),
    # DeepLab v2: ASPP-L, and ResNet-101 with three scales.
    "deeplab_v2_vgg16": (4, 65, 3, 2, 2),
    "deeplab_v2_resnet101": (4, 67, 3, 3, 1),
    # Trained with boxes (SetupEnv.m), on person parts, and with attention.
    "bbox_erode": (41, 33, 4, 3, 3),
    "bbox_erode20": (45, 37, 3, 15, 3),
    "person_part_largefov": (5, 13, 3, 3, 3),
    "person_part_msc_largefov": (5, 9, 5, 3, 3),
    "attention_coco": (4, 49, 5, 3, 3),
    "attention_coco_msc": (5, 51, 5, 3, 3),
    # Defaults of programs: run_densecrf.sh and the grid search of v2, DeepLab-Context's
    # crf_runner, the DenseCRF layer in the test network of train-DeepLab.
    "run_densecrf": (4, 49, 5, 3, 3),
    "grid_search": (5, 50, 10, 3, 3),
    "context": (5, 50, 3, 3, 3),
    "caffe_layer": (5, 50, 10, 3, 3),
}


def _set(instance: object, name: str, value: object) -> None:
    object.__setattr__(instance, name, value)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    return float(value)


def _std(name: str, value: Any, count: int | None = None) -> Std:
    """``count``: how many numbers a tuple has, None where the image decides."""
    parts = tuple(_numbers(name, value))
    if not parts or (isinstance(value, (tuple, list)) and count not in (None, len(parts))):
        raise ValueError(f"{name} must be one number or {count or 'one per channel'}, got {value}")
    if min(parts) <= 0:
        raise ValueError(f"{name} must be positive, got {value}")
    return parts if isinstance(value, (tuple, list)) else parts[0]


def _numbers(name: str, value: Any) -> Iterator[float]:
    for part in value if isinstance(value, (tuple, list)) else (value,):
        yield _number(name, part)
