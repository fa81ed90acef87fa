"""The atrous convolutions that benchmarks time: their sizes, operands and exact results.

Needs torch alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F

ISSUE = (
    *("512-512-r2@41", "512-512-r4@41", "256-256-r2@41"),
    *(f"512-1024-r{rate}@41" for rate in (2, 6, 12, 18, 24)),
    *(f"2048-21-r{rate}@41" for rate in (6, 12, 18, 24)),
    *("512-1024-r12@65", "2048-21-r12@65"),
)
#: With two of VGG-16's at rate 1, where most of its time is: conv3_2 and conv4_2 at 321.
SIXTEEN = (*ISSUE, "256-256-r1@81", "512-512-r1@41")
#: Relative difference from float64: rounding of sums of up to 18,432 products, or of the operands;
#: "fast" are the forms of minimal filtering that need the fewest products.
LIMITS = {"fp32": 1e-5, "fast": 1e-5, "tf32": 2e-3, "bf16": 1e-2, "fp16": 2e-3}
SAMPLED_CHANNELS = 8


@dataclass(frozen=True)
class Shape:
    """A 3x3 convolution of stride 1 that keeps the map's size; counts are of one picture."""

    channels: int
    filters: int
    size: int
    rate: int

    @classmethod
    def named(cls, name: str) -> Shape:
        """The shape with that name, as "512-1024-r12@41"."""
        found = re.fullmatch(r"(\d+)-(\d+)-r(\d+)@(\d+)", name)
        if found is None:
            raise ValueError(f"a shape's name is like 512-1024-r12@41, got {name!r}")
        channels, filters, rate, size = map(int, found.groups())
        return cls(channels, filters, size, rate)

    @property
    def name(self) -> str:
        return f"{self.channels}-{self.filters}-r{self.rate}@{self.size}"

    @property
    def multiply_adds(self) -> int:
        return 9 * self.size**2 * self.channels * self.filters

    @property
    def useful_multiply_adds(self) -> int:
        """Without those on the padding."""
        along_an_axis = self.size + 2 * max(0, self.size - self.rate)
        return along_an_axis**2 * self.channels * self.filters


def make(shape: Shape, batch: int, device: str) -> list[torch.Tensor]:
    """x, weight, grad_y: normal values, the weight such that y's are of size 1."""
    generator = torch.Generator().manual_seed(0)
    sizes = (
        (batch, shape.channels, shape.size, shape.size),
        (shape.filters, shape.channels, 3, 3),
        (batch, shape.filters, shape.size, shape.size),
    )
    x, weight, grad_y = (torch.randn(s, generator=generator).to(device) for s in sizes)
    return [x, weight / (9 * shape.channels) ** 0.5, grad_y]


def sample(shape: Shape, tensors: list[torch.Tensor], direction: str) -> tuple[torch.Tensor, ...]:
    """The first channels of y, or of both gradients, in float64."""
    x, weight, grad_y = (t.double() for t in tensors)
    n, how = SAMPLED_CHANNELS, {"padding": shape.rate, "dilation": shape.rate}
    if direction == "forward":
        return (F.conv2d(x, weight[:n], **how),)
    image, kernel = x[:, :n].shape, weight[:n].shape
    return (
        torch.nn.grad.conv2d_input(image, weight[:, :n], grad_y, **how),
        torch.nn.grad.conv2d_weight(x, kernel, grad_y[:, :n], **how),
    )


def sampled(results: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """The same channels of whole results."""
    if len(results) == 1:
        return (results[0][:, :SAMPLED_CHANNELS],)
    return results[0][:, :SAMPLED_CHANNELS], results[1][:SAMPLED_CHANNELS]
