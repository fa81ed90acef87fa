"""The Gaussian kernels of a dense CRF: what their features are made of, and their lattices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from deeplab_repro.crf.checks import pictures_at_once
from deeplab_repro.crf.features import bilateral_features
from deeplab_repro.ops import permutohedral_build
from deeplab_repro.ops.permutohedral import Lattice

__all__ = ["Kernel", "parts"]


class Kernel(NamedTuple):
    """One kernel, before there is a lattice."""

    #: In messages.
    name: str
    #: (N, channels, ...), or (1, channels, ...) for all pictures alike: an image, which has no
    #: channels where only positions count, or features.
    source: Tensor
    #: Of an image: x, y and each channel.  Features have been divided by theirs: ().
    stds: tuple[float, ...]

    @property
    def dimensions(self) -> int:
        """Of a point's features."""
        return len(self.stds) or self.source.shape[1]

    @property
    def features(self) -> Tensor | None:
        """What gradients may go back to; none go to an image."""
        return None if self.stds else self.source

    @property
    def shared(self) -> bool:
        """Whether all pictures have the same features."""
        return len(self.source) == 1

    def lattice(self, pictures: slice, padding_points: bool, dtype: torch.dtype) -> Lattice:
        """The lattice of some pictures, or of one where all are alike."""
        source = self.source if self.shared else self.source[pictures]
        try:
            if self.stds:
                xy, channels = self.stds[:2], self.stds[2:]
                features = bilateral_features(source.detach(), xy, channels, dtype=dtype)
            else:
                features = source.to(dtype)
            rows = features.flatten(2).transpose(1, 2)
            return permutohedral_build(rows, padding_points=padding_points)
        except ValueError as error:
            raise ValueError(f"{self.name}{self._named_stds()}: {error}") from None

    def _named_stds(self) -> str:
        """For a message; not part of the name, since torch.compile may make numbers symbols."""
        if not self.stds:
            return ""
        xy, channels = map(_short, (self.stds[:2], self.stds[2:]))
        return f" (xy_std {xy}, rgb_std {channels})" if self.stds[2:] else f" (pos_xy_std {xy})"


def _short(stds: tuple[float, ...]) -> float | tuple[float, ...]:
    """One number where all are alike."""
    return stds[0] if len(set(stds)) == 1 else stds


def parts(
    unary: Tensor, kernels: Sequence[Kernel], padding_points: bool, dtype: torch.dtype
) -> Iterator[tuple[slice, list[Lattice]]]:
    """The pictures of a batch in parts of those that share their lattices, and these lattices."""
    at_once = pictures_at_once(unary)
    alike: dict[int, Lattice] = {}
    for first in range(0, max(len(unary), 1), at_once):
        pictures = slice(first, first + at_once)
        count = len(unary[pictures])
        lattices = []
        for k, kernel in enumerate(kernels):
            lattice = alike.get(k) or kernel.lattice(pictures, padding_points, dtype)
            if kernel.shared:
                alike[k] = lattice
            lattices.append(lattice if len(lattice.vertex) == count else repeated(lattice, count))
        yield pictures, lattices


def repeated(lattice: Lattice, batch: int) -> Lattice:
    """The lattice of ``batch`` pictures that are all alike, from that of one."""
    points, corners = lattice.vertex.shape[1:]
    vertices = lattice.neighbours.shape[1]
    picture = torch.arange(batch, dtype=torch.int32, device=lattice.vertex.device)
    first_vertex, first_entry = picture * vertices, picture * (points * corners)
    neighbours = lattice.neighbours[:, None]
    neighbours = torch.where(neighbours < 0, -1, neighbours + first_vertex[:, None, None])
    starts = lattice.splat_start[:-1] + first_entry[:, None]
    end = starts.new_tensor([batch * points * corners])
    return Lattice(
        lattice.vertex + first_vertex[:, None, None],
        lattice.weight.expand(batch, -1, -1).contiguous(),
        neighbours.flatten(1, 2).contiguous(),
        torch.cat([starts.flatten(), end]),
        (lattice.splat_entry + first_entry[:, None]).flatten(),
    )
