"""Pooling and SPP: windows that count their outputs upwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from prototxt_import.layers.core import Layer, kind
from prototxt_import.layers.field import Field
from prototxt_import.layers.parts import Family, LayerShapes, Window, enum_name
from prototxt_import.layers.sizes import Shape, count
from prototxt_import.schema import Dialect
from prototxt_import.words import pair, show

__all__ = ["SPP", "Pool", "Pooling", "pool_output"]


def pool_output(
    n: int,
    kernel: int,
    stride: int = 1,
    pad: int = 0,
    floor: bool = False,
    clip: bool | None = None,
) -> int:
    """Windows along one axis, rounded up (pooling_layer.cpp).

    With padding, a last window that would begin beyond the map and its padding is left out;
    ``clip`` tells whether there is padding along any axis, by default whether there is along this.
    """
    span = n + 2 * pad - kernel
    out = (span // stride if floor else -(-span // stride)) + 1
    if (pad > 0 if clip is None else clip) and (out - 1) * stride >= n + pad:
        out -= 1
    return out


@dataclass(frozen=True)
class Pool:
    """A pooling window over height and width.

    Attributes:
        method: ``"MAX"``, ``"AVE"`` or ``"STOCHASTIC"``.
        kernel: None stands for the whole map (``global_pooling``).
        floor: round output sizes down, where Caffe rounds up by default.
    """

    method: str
    kernel: tuple[int, int] | None
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)
    floor: bool = False

    def output(self, size: Sequence[int | None]) -> tuple[int | None, int | None]:
        """Windows over a map of ``size`` (height, width), None where that is not known.

        A pad along one axis clips the windows of both (pooling_layer.cpp).
        """
        if self.kernel is None:
            return 1, 1
        clip = any(self.pad)
        height, width = (
            None if n is None else pool_output(n, kernel, stride, pad, self.floor, clip)
            for n, kernel, stride, pad in zip(size, self.kernel, self.stride, self.pad, strict=True)
        )
        return height, width


def _check_pool(layer: Layer, pool: Pool) -> None:
    """Refuse what pooling_layer.cpp refuses."""
    if pool.kernel is not None and min(pool.kernel) < 1:
        layer.fail("kernel size is missing or zero", got=pool.kernel)
    if min(pool.stride) < 1:
        layer.fail("stride is zero", got=pool.stride)
    if pool.pad != (0, 0):
        if pool.method == "STOCHASTIC":
            layer.fail("stochastic pooling takes no padding", got=pool.pad)
        if pool.kernel is None or any(p >= k for p, k in zip(pool.pad, pool.kernel, strict=True)):
            layer.fail(
                "padding must be smaller than the kernel", expected=f"< {pool.kernel}", got=pool.pad
            )


@kind("Pooling", "pooling_param", tops=(1, 2))
class Pooling(Layer):
    """pooling_layer.cpp; the second top of MAX holds where in the map each maximum was.

    Attributes:
        pool: the window.
        faults: what is wrong with how it is stated.
    """

    family: ClassVar[Family] = "pooling"
    pool: Pool
    faults: tuple[str, ...]

    @classmethod
    def read(cls, message: Any, spec: Any, dialect: Dialect) -> dict[str, Any]:
        """Sizes as one value for both sides, or as height and width."""
        faults = []

        def pair(name: str, split: str) -> tuple[int, int]:
            sides = [message.HasField(f"{split}_{side}") for side in "hw"]
            if not any(sides):
                return getattr(message, name), getattr(message, name)
            if message.HasField(name):
                faults.append(f"{name} and {split}_h, {split}_w are both given")
            if not all(sides):
                faults.append(f"{split}_h and {split}_w go together")
            return getattr(message, f"{split}_h"), getattr(message, f"{split}_w")

        kernel: tuple[int, int] | None = pair("kernel_size", "kernel")
        stride, pad = pair("stride", "stride"), pair("pad", "pad")
        if message.global_pooling:
            if any(message.HasField(name) for name in ("kernel_size", "kernel_h", "kernel_w")):
                faults.append("global_pooling takes no kernel size")
            if pad != (0, 0) or stride != (1, 1):
                faults.append("global_pooling takes pad 0 and stride 1 only")
            kernel = None
        floor = enum_name(message, "round_mode") == "FLOOR"
        pool = Pool(enum_name(message, "pool"), kernel, stride, pad, floor)
        return {"pool": pool, "faults": tuple(faults)}

    def check(self) -> None:
        """pooling_layer.cpp, LayerSetUp."""
        for fault in self.faults:
            self.fail(fault)
        _check_pool(self, self.pool)

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """(N, C, H, W) -> (N, C, H', W'), once or twice."""
        num, channels, *maps = bottom = self.exactly_four_axes(bottoms[0])
        pool = self.pool
        if len(self.tops) > 1 and pool.method != "MAX":
            self.fail("only MAX has a second top", expected=1, got=len(self.tops))
        out = pool.output(maps)
        if pool.kernel is not None:
            self.something_left(f"kernel {show(pool.kernel)}", out, bottom)
        return LayerShapes([(num, channels, *out)] * max(1, len(self.tops)))

    def window(self, bottom: Shape) -> Window | None:
        """None for the whole map."""
        pool = self.pool
        return None if pool.kernel is None else Window(pool.kernel, pool.stride, pool.pad, (1, 1))

    def padded(self, bottom: Shape) -> Shape | None:
        """The bottom with its padding."""
        if not any(self.pool.pad):
            return None
        sides = (n and n + 2 * pad for n, pad in zip(bottom[2:], self.pool.pad, strict=True))
        return (*bottom[:2], *sides)

    def receptive_field(self, below: Field, bottom: Shape, top: Shape) -> Field | None:
        """As wide as the window; the whole picture has no place."""
        pool = self.pool
        return None if pool.kernel is None else below.through(pool.kernel, pool.stride)

    def describe(self) -> str:
        """Method, kernel, and the stride where it is not 1."""
        pool = self.pool
        kernel = "global" if pool.kernel is None else show(pool.kernel)
        stride = f" stride {pair(pool.stride)}" if max(pool.stride) > 1 else ""
        return f"{pool.method} pooling {kernel}{stride}"


@kind("SPP", "spp_param")
class SPP(Layer):
    """spp_layer.cpp: the bins of every level one after the other; a single level keeps 4 axes."""

    family: ClassVar[Family] = "pooling"
    keeps_places: ClassVar[bool] = False
    pyramid_height: int
    pool: str

    def check(self) -> None:
        """At least one level."""
        if self.pyramid_height < 1:
            self.fail("pyramid_height is missing or zero")
        if self.pyramid_height > 16:  # 4**16 bins alone are more values than a blob can have
            self.fail("bad pyramid_height", expected="1..16", got=self.pyramid_height)

    def level(self, level: int, size: Sequence[int]) -> Pool:
        """The window that pools a map of ``size`` into 2**level bins a side."""
        bins = 2**level
        kernel = tuple(-(-n // bins) for n in size)
        pad = tuple((k * bins - n + 1) // 2 for k, n in zip(kernel, size, strict=True))
        sides = kernel[0], kernel[1]
        pool = Pool(self.pool, sides, sides, (pad[0], pad[1]))
        _check_pool(self, pool)
        return pool

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """(N, C, H, W) -> (N, C * bins)."""
        num, channels, *maps = self.exactly_four_axes(bottoms[0])
        if None not in maps:
            for level in range(self.pyramid_height):
                self.level(level, [size for size in maps if size is not None])
        if self.pyramid_height == 1:
            return LayerShapes([(num, channels, 1, 1)])
        bins = sum(4**level for level in range(self.pyramid_height))
        return LayerShapes([(num, count([channels, bins]))])
