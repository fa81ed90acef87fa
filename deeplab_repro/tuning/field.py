"""Mean field over one picture again and again, with what stays the same kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from deeplab_repro.crf import CRFParams
from deeplab_repro.crf.checks import check_energies, check_memory
from deeplab_repro.crf.kernels import Kernel
from deeplab_repro.crf.params import Std
from deeplab_repro.crf.steps import MeanField, Settings
from deeplab_repro.ops.permutohedral import Lattice

__all__ = ["Field", "Stale"]

#: Lattices that are kept of each kernel.
_KEPT: Final = 2
#: Labels times pixels times steps that are computed before the next look whether the result is
#: still wanted: ten steps of a picture of VOC's.  One step at a time would take twice as long,
#: since the kernels' sums are computed anew whenever the steps begin.
_VALUES_AT_ONCE: Final = 40_000_000


class Stale(Exception):
    """A newer request has come."""


class Field:
    """The CRF of a picture, at its own size or a smaller one.

    Lattices depend on the stds alone and are kept, so that other weights and iterations cost the
    mean field steps and nothing else.  Not safe to use from several threads at a time.
    """

    def __init__(self, unary: Tensor, image: Tensor) -> None:
        """Check and keep energies and picture.

        Args:
            unary: (C, H, W) float32 energies, as of :func:`deeplab_repro.crf.dense_crf`.
            image: (channels, H, W) of any number type, on the same device.

        Raises:
            ValueError: energies that have no softmax.
            MemoryError: more than this machine has.
        """
        labels, height, width = unary.shape
        dimensions = (2, 2 + len(image))
        check_memory("crf-tune", 1, height * width, labels, dimensions, unary)
        check_energies("crf-tune", unary[None])
        self.unary, self.image = unary, image
        self._stretch = (1.0, 1.0)  # of x and y against the whole picture
        self._lattices: dict[int, OrderedDict[tuple[float, ...], Lattice]] = {0: OrderedDict()}
        self._lattices[1] = OrderedDict()
        self._last: tuple[CRFParams, Tensor] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.unary.shape[1], self.unary.shape[2]

    def reduced(self, pixels: int) -> Field:
        """The same CRF over fewer pixels, or this one where it has no more than that.

        It takes evenly spread pixels as they are: a mean of energies would be no energy of any
        pixel, and infinite wherever one of them is.

        Args:
            pixels: at most so many, up to the rounding of the sides.
        """
        height, width = self.size
        factor = (pixels / (height * width)) ** 0.5
        if factor >= 1:
            return self
        sides = [max(1, round(side * factor)) for side in (height, width)]
        y, x = (
            (2 * torch.arange(n, device=self.unary.device) + 1) * side // (2 * n)  # their middles
            for n, side in zip(sides, (height, width), strict=True)
        )
        small = Field(
            self.unary[:, y][:, :, x].contiguous(), self.image[:, y][:, :, x].contiguous()
        )
        small._stretch = (sides[1] / width, sides[0] / height)
        return small

    def params(self, params: CRFParams) -> CRFParams:
        """Parameters of the whole picture in this one's pixels."""
        if self._stretch == (1.0, 1.0):
            return params
        return replace(
            params,
            pos_xy_std=self._stretched(params.pos_xy_std),
            bi_xy_std=self._stretched(params.bi_xy_std),
        )

    def marginals(self, params: CRFParams, wanted: Callable[[], bool] = lambda: True) -> Tensor:
        """The marginals that :func:`deeplab_repro.crf.dense_crf` gives, (C, H, W) float32.

        Args:
            params: of the whole picture, without extra kernels.
            wanted: asked between the steps, whether somebody still waits for the result.

        Raises:
            Stale: nobody does.
            ValueError: stds so small that the lattice's keys overflow.
        """
        if self._last is not None and self._last[0] == params:
            return self._last[1]
        own = self.params(params)
        positions = self.unary.new_empty((1, 0, *self.size))
        channels = len(self.image)
        kernels = [
            Kernel("the spatial kernel", positions, _each(own.pos_xy_std, 2)),
            Kernel(
                "the bilateral kernel",
                self.image[None],
                (*_each(own.bi_xy_std, 2), *_each(own.bi_rgb_std, channels)),
            ),
        ]
        used = [k for k, weight in enumerate(own.weights) if weight]
        lattices = []
        for k in used:
            _go_on(wanted)
            lattices.append(self._lattice(k, kernels[k]))
        weights = self.unary.new_tensor([own.weights[k] for k in used])
        norms = ["after"] * len(used)
        settings = Settings(norms, 1.0, own.iterations, "deeplab", False, False)
        field = MeanField(lattices, weights, [None] * len(used), settings)
        unary = self.unary.flatten(1)[None]
        at_once = max(1, _VALUES_AT_ONCE // unary.numel())
        with torch.no_grad():
            q = field.run(unary, None, min(at_once, own.iterations))
            for done in range(at_once, own.iterations, at_once):
                _go_on(wanted)
                q = field.run(unary, q, min(at_once, own.iterations - done))
        result = q[0].unflatten(1, self.size)
        self._last = params, result
        return result

    def _lattice(self, k: int, kernel: Kernel) -> Lattice:
        kept = self._lattices[k]
        if kernel.stds in kept:
            kept.move_to_end(kernel.stds)
        else:
            if len(kept) == _KEPT:
                kept.popitem(last=False)  # before there is one more
            kept[kernel.stds] = kernel.lattice(slice(0, 1), False, self.unary.dtype)
        return kept[kernel.stds]

    def _stretched(self, std: Std) -> Std:
        return tuple(s * f for s, f in zip(_each(std, 2), self._stretch, strict=True))


def _each(std: Std, count: int) -> tuple[float, ...]:
    return std if isinstance(std, tuple) else (std,) * count


def _go_on(wanted: Callable[[], bool]) -> None:
    if not wanted():
        raise Stale
