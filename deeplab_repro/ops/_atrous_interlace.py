"""An atrous convolution as dense ones: the second paper's subsampling and interlacing.

Output pixel i of an axis reads x at i * stride - padding + r * rate for each tap r. With
g = gcd(stride, rate), the outputs i = a * (rate / g) + b of one b read at
b * stride - padding + (a * stride / g + r) * rate: all a multiple of the rate apart. Those pixels
are a small map of their own, and the outputs a dense convolution of it with stride / g. So no zeros
stand between the taps, and nothing is computed that is not asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from deeplab_repro.ops._atrous_native import out_size


class How(NamedTuple):
    """How the window moves (pairs (h, w) in pixels), and how products are made and summed.

    padding: where algorithm is "direct" and filters are of single channels, perhaps (top, bottom,
    left, right).
    """

    stride: tuple[int, int]
    padding: tuple[int, ...]
    rate: tuple[int, int]
    groups: int
    precision: str  # of the products of float32
    fast: bool  # minimal filtering may use forms that round more


class _Axis(NamedTuple):
    """One axis, in pixels. Pixel t of map b is pixel b * step + t * rate of x behind its zeros."""

    size: int  # of x
    out: int  # of y
    step: int
    rate: int
    front: int  # zeros put before x
    back: int  # zeros put behind x; below 0, pixels that are not read
    maps: int
    map_size: int
    map_padding: int  # zeros that the dense convolution puts around each map
    map_stride: int
    map_out: int

    @staticmethod
    def of(size: int, out: int, taps: int, stride: int, padding: int, rate: int) -> _Axis:
        common = math.gcd(stride, rate)
        maps, map_stride = rate // common, stride // common
        # Whole rates of padding stay implicit where no map starts a rate or more into x.
        map_padding = padding // rate if rate % stride == 0 else 0
        front = padding - map_padding * rate
        needed = (-(-out // maps) - 1) * map_stride + taps  # pixels of a map, padding included
        map_size = needed - 2 * map_padding
        end = (maps - 1) * stride + (map_size - 1) * rate + 1
        map_out = (map_size + 2 * map_padding - taps) // map_stride + 1
        return _Axis(
            size, out, stride, rate, front, end - front - size,
            maps, map_size, map_padding, map_stride, map_out,
        )  # fmt: skip

    def pixels(self, device: torch.device) -> torch.Tensor:
        """(maps * map_size) int64: where each map's pixels lie in x behind its zeros."""
        first = torch.arange(self.maps, device=device) * self.step
        return (first[:, None] + torch.arange(self.map_size, device=device) * self.rate).flatten()


class Interlacing(NamedTuple):
    """How x (N, C, H, W) becomes maps (N * maps, C, h, w), and maps of outputs become y."""

    height: _Axis
    width: _Axis

    @staticmethod
    def of(image_size: Sequence[int], kernel_size: Sequence[int], how: How) -> Interlacing:
        out = out_size(image_size, kernel_size, *how[:3])
        height, width = (
            _Axis.of(
                image_size[i], out[i], kernel_size[i], how.stride[i], how.padding[i], how.rate[i]
            )
            for i in range(2)
        )
        return Interlacing(height, width)

    @property
    def map_size(self) -> tuple[int, int]:
        """(h, w) of a map."""
        return self.height.map_size, self.width.map_size

    def dense(self, how: How) -> How:
        """The convolution of the maps."""
        height, width = self
        return how._replace(
            stride=(height.map_stride, width.map_stride),
            padding=(height.map_padding, width.map_padding),
            rate=(1, 1),
        )

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """x (N, C, H, W) as maps (N * maps, C, h, w)."""
        height, width = self
        padded = F.pad(x, (width.front, width.back, height.front, height.back))
        maps = padded.index_select(2, height.pixels(x.device))
        maps = maps.index_select(3, width.pixels(x.device))
        n, c = x.shape[:2]
        maps = maps.reshape(n, c, height.maps, height.map_size, width.maps, width.map_size)
        return maps.permute(0, 2, 4, 1, 3, 5).reshape(
            n * height.maps * width.maps, c, height.map_size, width.map_size
        )

    def unsplit(self, maps: torch.Tensor) -> torch.Tensor:
        """The transpose of split: every pixel back where it came from, 0 where none came from."""
        height, width = self
        n, c = maps.shape[0] // (height.maps * width.maps), maps.shape[1]
        maps = maps.reshape(n, height.maps, width.maps, c, height.map_size, width.map_size)
        maps = maps.permute(0, 3, 1, 4, 2, 5).reshape(
            n, c, height.maps * height.map_size, width.maps * width.map_size
        )
        for dim, axis in ((3, width), (2, height)):
            shape = list(maps.shape)
            shape[dim] = axis.front + axis.size + axis.back
            # No two pixels of the maps are the same pixel of x.
            maps = maps.new_zeros(shape).index_copy(dim, axis.pixels(maps.device), maps)
        return F.pad(maps, (-width.front, -width.back, -height.front, -height.back))

    def weave(self, maps: torch.Tensor) -> torch.Tensor:
        """y (N, K, H', W') of the outputs (N * maps, K, h', w')."""
        height, width = self
        n, k = maps.shape[0] // (height.maps * width.maps), maps.shape[1]
        y = maps.reshape(n, height.maps, width.maps, k, height.map_out, width.map_out)
        y = y.permute(0, 3, 4, 1, 5, 2).reshape(
            n, k, height.map_out * height.maps, width.map_out * width.maps
        )
        return y[:, :, : height.out, : width.out]

    def unweave(self, y: torch.Tensor) -> torch.Tensor:
        """The transpose of weave; outputs beyond y are 0."""
        height, width = self
        n, k = y.shape[:2]
        full = height.map_out * height.maps, width.map_out * width.maps
        y = F.pad(y, (0, full[1] - width.out, 0, full[0] - height.out))
        y = y.reshape(n, k, height.map_out, height.maps, width.map_out, width.maps)
        return y.permute(0, 3, 5, 1, 2, 4).reshape(
            n * height.maps * width.maps, k, height.map_out, width.map_out
        )
