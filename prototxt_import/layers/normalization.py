"""Layers that scale and shift: BatchNorm, Scale, Bias, MVN, LRN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from prototxt_import.layers.core import Layer, kind
from prototxt_import.layers.parts import Filler, LayerShapes
from prototxt_import.layers.sizes import Shape
from prototxt_import.schema import Dialect

__all__ = ["LRN", "MVN", "BatchNorm", "Bias", "Scale"]

#: What the v1 fork's mvn_layer.cpp adds to the deviation; later ones read it from the file.
_LEGACY_MVN_EPS: Final = 1e-10


@kind("BatchNorm", "batch_norm_param")
class BatchNorm(Layer):
    """batch_norm_layer.cpp: sums of means and of variances, and the factor to divide them by.

    Attributes:
        use_global_stats: None stands for "not when training".
        update_global_stats: of the v2 fork: they follow the batches even where they are used.
    """

    use_global_stats: bool | None = None
    moving_average_fraction: float
    eps: float
    update_global_stats: bool

    def fillers(self) -> tuple[Filler, ...]:
        """All three blobs start as zeros."""
        return (Filler(), Filler(), Filler())

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """(N, C, ...), or a single axis as one channel."""
        (bottom,) = bottoms
        channels = 1 if len(bottom) == 1 else bottom[1]
        return LayerShapes([bottom], [(channels,), (channels,), (1,)])


@kind("MVN", "mvn_param", v1="MVN")
class MVN(Layer):
    """mvn_layer.cpp: the top has four axes, whatever the bottom has."""

    normalize_variance: bool
    across_channels: bool
    eps: float

    @classmethod
    def read(cls, message: Any, spec: Any, dialect: Dialect) -> dict[str, Any]:
        """The v1 fork does not read eps."""
        values = super().read(message, spec, dialect)
        return {**values, "eps": _LEGACY_MVN_EPS} if dialect == "dl1" else values

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """The bottom must have four axes, and the top has its shape."""
        return LayerShapes([self.four_axes(bottoms[0])])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Affine(Layer):
    """Factors along the axes [axis, axis + num_axes): a parameter, or the second bottom."""

    axis: int
    num_axes: int

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """The factors have some of the bottom's axes (scale_layer.cpp, bias_layer.cpp: Reshape)."""
        bottom = bottoms[0]
        if len(bottoms) == 2:
            factors = bottoms[1]
            axis = self.axis_of(self.axis, len(bottom)) if factors else 0
            if axis + len(factors) > len(bottom):
                self.fail(
                    "bottom 1 has too many axes",
                    expected=f"at most {len(bottom) - axis}",
                    got=len(factors),
                )
            if factors:
                factors = self.same_shape([bottom[axis : axis + len(factors)], factors])
        else:
            if self.num_axes < -1:
                self.fail("bad num_axes", expected=">= -1", got=self.num_axes)
            axis = self.axis_of(self.axis, len(bottom))
            end = len(bottom) if self.num_axes == -1 else axis + self.num_axes
            if end > len(bottom):
                self.fail(
                    "axis + num_axes is beyond the bottom's axes",
                    expected=f"at most {len(bottom)}",
                    got=end,
                )
            factors = bottom[axis:end]
        return LayerShapes([bottom], [factors] * len(self.fillers()))

    @property
    def has_own_factors(self) -> bool:
        """Whether blob 0 holds the factors, and not the second bottom."""
        return len(self.bottoms) == 1


@kind("Scale", "scale_param", bottoms=(1, 2))
class Scale(_Affine):
    """scale_layer.cpp: factors, and with ``bias_term`` biases, which are always a parameter."""

    filler: Filler | None = None
    bias_term: bool
    bias_filler: Filler

    def fillers(self) -> tuple[Filler, ...]:
        """Factors of 1 and biases of 0 unless the file says otherwise."""
        factors = (self.filler or Filler(value=1.0),) if self.has_own_factors else ()
        return (*factors, self.bias_filler) if self.bias_term else factors


@kind("Bias", "bias_param", bottoms=(1, 2))
class Bias(_Affine):
    """bias_layer.cpp: adds a blob along some of the axes."""

    filler: Filler

    def fillers(self) -> tuple[Filler, ...]:
        """As the file says."""
        return (self.filler,) if self.has_own_factors else ()


@kind("LRN", "lrn_param", v1="LRN")
class LRN(Layer):
    """lrn_layer.cpp.

    Attributes:
        local_size: side of the neighbourhood, in channels or pixels.
        across: over channels; otherwise over a square within the channel, where ``k`` is not read.
    """

    local_size: int
    alpha: float
    beta: float
    k: float
    across: bool

    @classmethod
    def read(cls, message: Any, spec: Any, dialect: Dialect) -> dict[str, Any]:
        """``norm_region``."""
        across = message.norm_region == message.ACROSS_CHANNELS
        return {**super().read(message, spec, dialect), "across": across}

    def check(self) -> None:
        """The neighbourhood has a middle."""
        if self.local_size % 2 == 0:
            self.fail("local_size must be odd", got=self.local_size)

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """(N, C, H, W)."""
        return LayerShapes([self.exactly_four_axes(bottoms[0])])
