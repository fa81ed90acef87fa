"""Cases for the kernels of the atrous convolution, naive loops, and how near a result must be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

Pair = tuple[int, int]


@dataclass(frozen=True)
class Case:
    """Shapes of one convolution; pairs are (h, w) in pixels."""

    batch: int
    in_channels: int
    out_channels: int
    size: Pair
    kernel: Pair = (3, 3)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    rate: Pair = (1, 1)
    groups: int = 1

    @property
    def out_size(self) -> Pair:
        axes = zip(self.size, self.kernel, self.stride, self.padding, self.rate, strict=True)
        h, w = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes)
        return h, w

    def geometry(self) -> np.ndarray:
        """struct ConvGeometry."""
        n, c, k = self.batch, self.in_channels, self.out_channels
        pairs = (self.kernel, self.stride, self.padding, self.rate)
        rest = [value for pair in pairs for value in pair]
        return np.array([n, c, *self.size, k, *self.out_size, *rest, self.groups], np.int64)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        n, c, k = self.batch, self.in_channels, self.out_channels
        taps = self.kernel[0] * self.kernel[1]
        h, w = self.out_size
        return {
            "x": (n, c, *self.size),
            "weight": (k, c // self.groups, *self.kernel),
            "bias": (k,),
            "y": (n, k, h, w),
            "columns": (n, c * taps, h * w),
        }


# One name for each reason that a case is here. A tile of the tests holds 32 pixels and 32 filters,
# an iteration 8 chunks of 4 (float) or 8 (16-bit) channels.
CASES = {
    "atrous": Case(2, 5, 7, (9, 8), padding=(2, 2), rate=(2, 2)),
    "regions": Case(1, 4, 3, (11, 11), padding=(4, 4), rate=(4, 4)),
    "ragged_tiles": Case(1, 33, 34, (7, 5), padding=(1, 1)),
    "two_pixels_over": Case(1, 8, 32, (2, 17), (1, 1)),
    "rate_above_map": Case(2, 3, 4, (3, 4), padding=(7, 7), rate=(7, 7)),
    "window_in_padding": Case(1, 2, 3, (2, 2), (2, 2), padding=(5, 5), rate=(3, 3)),
    "stride": Case(1, 6, 5, (9, 10), stride=(2, 3), padding=(1, 1)),
    "stride_and_rate": Case(1, 3, 2, (10, 9), (3, 2), (2, 2), (3, 2), (2, 3)),
    "stride_above_kernel": Case(1, 2, 2, (7, 8), (1, 2), (3, 4)),
    "even_kernel": Case(1, 3, 4, (6, 7), (2, 4), padding=(1, 3), rate=(1, 2)),
    "many_taps": Case(1, 2, 3, (12, 12), (11, 1), padding=(5, 0)),
    "groups": Case(2, 6, 4, (5, 6), padding=(2, 2), rate=(2, 2), groups=2),
    "depthwise": Case(1, 5, 5, (6, 5), padding=(1, 1), groups=5),
}


def make(case: Case, dtype: torch.dtype, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Random x, weight, bias, grad_y and columns of a case."""
    generator = torch.Generator().manual_seed(1)

    def random(shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)

    shapes = case.shapes
    tensors = {name: random(shapes[name]) for name in ("x", "weight", "bias", "columns")}
    return {**tensors, "grad_y": random(shapes["y"])}


def taps(case: Case):
    """Every (i, j, r, s, h, w): output pixel, tap, and the pixel inside the map that it reads."""
    for i, j in np.ndindex(case.out_size):
        for r, s in np.ndindex(case.kernel):
            h = i * case.stride[0] - case.padding[0] + r * case.rate[0]
            w = j * case.stride[1] - case.padding[1] + s * case.rate[1]
            if 0 <= h < case.size[0] and 0 <= w < case.size[1]:
                yield i, j, r, s, h, w


def loops(
    case: Case, x: torch.Tensor, weight: torch.Tensor, grad_y: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(y without bias, grad_x, grad_weight) in float64, pixel by pixel and tap by tap."""
    x, weight, grad_y = (t.detach().cpu().double().numpy() for t in (x, weight, grad_y))
    y, grad_x, grad_weight = np.zeros_like(grad_y), np.zeros_like(x), np.zeros_like(weight)
    ins, outs = case.in_channels // case.groups, case.out_channels // case.groups
    for group in range(case.groups):
        c = slice(group * ins, (group + 1) * ins)
        k = slice(group * outs, (group + 1) * outs)
        for i, j, r, s, h, w in taps(case):
            y[:, k, i, j] += x[:, c, h, w] @ weight[k, :, r, s].T
            grad_x[:, c, h, w] += grad_y[:, k, i, j] @ weight[k, :, r, s]
            grad_weight[k, :, r, s] += grad_y[:, k, i, j].T @ x[:, c, h, w]
    return torch.from_numpy(y), torch.from_numpy(grad_x), torch.from_numpy(grad_weight)


def column_loops(case: Case, x: torch.Tensor, columns: torch.Tensor):
    """(im2col of x, col2im of columns) in float64."""
    x, columns = x.detach().cpu().double(), columns.detach().cpu().double()
    n, c = x.shape[:2]
    shape = (n, c, *case.kernel, *case.out_size)
    unfolded, folded = torch.zeros(shape, dtype=torch.float64), torch.zeros_like(x)
    for i, j, r, s, h, w in taps(case):
        unfolded[:, :, r, s, i, j] = x[:, :, h, w]
        folded[:, :, h, w] += columns.view(shape)[:, :, r, s, i, j]
    return unfolded.view(columns.shape), folded


def round_tf32(value: torch.Tensor) -> torch.Tensor:
    """To 10 bits of mantissa, ties away from zero."""
    bits = value.float().cpu().numpy().view(np.uint32)
    return torch.from_numpy(((bits + 0x1000) & 0xFFFFE000).astype(np.uint32).view(np.float32))


# How operands are rounded before they are multiplied, of float32 tensors.
ROUNDING = {
    "fp32": lambda value: value,
    "tf32": round_tf32,
    "bf16": lambda value: value.bfloat16(),
    "fp16": lambda value: value.half(),
}

# Error of the sum over the sum of the absolute products, after rounding the operands. float32:
# 2^-22 for the dropped product of the low halves, some 2^-24 for each of a few long additions; a
# plain float32 sum of 300 products may be off by 300 * 2^-24 = 2e-5. The other precisions: tensor
# cores cut off at 2^-23 once for each step of 8 or 16 products, at most 64 of them in these cases.
SUM_ERROR = {"fp32": 6e-7, "tf32": 8e-6, "bf16": 8e-6, "fp16": 8e-6}
# The unit roundoff of the result's type: 2 to the minus its bits of precision.
RESULT_ERROR = {
    torch.float64: 0.0,
    torch.float32: 2**-24,
    torch.float16: 2**-11,
    torch.bfloat16: 2**-8,
}


def assert_near(got: torch.Tensor, want: torch.Tensor, size: torch.Tensor, precision: str) -> None:
    """|got - want| within the bounds above; want, size: the sum and that of absolute products."""
    # 16-bit tensors are multiplied exactly and summed as tensor cores sum.
    error = {torch.float64: 1e-14, torch.float32: SUM_ERROR[precision]}.get(got.dtype, 8e-6)
    # float16 has nothing finer than 2^-25 to round to.
    bound = (
        error * size
        + RESULT_ERROR[got.dtype] * (want.abs() + error * size)
        + 2.0**-25 * (got.dtype == torch.float16)
    )
    distance = (got.cpu().double() - want).abs()
    worst = (distance - bound).max().item() if got.numel() else 0.0
    assert not distance.isnan().any(), "NaN: something was read before it was written"
    assert worst <= 0, f"error {distance.max():.3g}, {worst:.3g} above the bound"
