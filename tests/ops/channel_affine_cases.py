"""Inputs, oracle and tolerances of the channel_affine tests, on every device."""

from __future__ import annotations

import itertools

import numpy as np
import torch

# Around the kernels' own edges: 16 lanes of the CPU sum, 256 threads of a block.
SHAPES = {
    "one value": (1, 1),
    "no spatial dimensions": (5, 7),
    "below a vector": (2, 3, 15),
    "a vector": (2, 3, 16),
    "above a vector": (2, 3, 17),
    "below a block": (1, 2, 255),
    "a block": (1, 2, 256),
    "above a block": (2, 1, 257),
    "image": (3, 4, 5, 7),
    "volume": (2, 3, 2, 3, 4),
    "more channels than threads": (2, 300, 3),
    "empty batch": (0, 3, 4),
    "no channels": (2, 0, 4),
    "no pixels": (2, 3, 0),
}

# (relative, absolute) of a forward value; the sums of a backward pass get `sum` times the number of
# terms' root. float32: one rounding of 2**-24 where the product and the sum are fused into one
# operation, and random-walk growth in sums.
TOLERANCES = {torch.float32: (1e-6, 1e-6), torch.float64: (1e-14, 1e-14)}


def make(shape: tuple[int, ...], dtype: torch.dtype, device: str = "cpu") -> list[torch.Tensor]:
    """x, scale, shift, grad_y with seeded normal values."""
    generator = torch.Generator().manual_seed(sum(shape) + 7)
    sizes = (shape, shape[1:2], shape[1:2], shape)
    return [torch.randn(s, generator=generator, dtype=dtype).to(device) for s in sizes]


def loops(x, scale, shift, grad_y):
    """(y, grad_x, grad_scale, grad_shift) in float64, element by element."""
    x, scale, shift, grad_y = (t.double().cpu().numpy() for t in (x, scale, shift, grad_y))
    y, grad_x = np.zeros_like(x), np.zeros_like(x)
    grad_scale, grad_shift = np.zeros_like(scale), np.zeros_like(shift)
    for i in itertools.product(*map(range, x.shape)):
        c = i[1]
        y[i] = x[i] * scale[c] + shift[c]
        grad_x[i] = grad_y[i] * scale[c]
        grad_scale[c] += grad_y[i] * x[i]
        grad_shift[c] += grad_y[i]
    return tuple(map(torch.from_numpy, (y, grad_x, grad_scale, grad_shift)))


def assert_agrees(got, expected, dtype: torch.dtype) -> None:
    """got: (y, grad_x, grad_scale, grad_shift) of `dtype` on any device; expected: of loops()."""
    relative, absolute = TOLERANCES[dtype]
    terms = expected[0].numel() / max(1, expected[2].numel())
    for name, ours, oracle in zip(
        ("y", "grad_x", "grad_scale", "grad_shift"), got, expected, strict=True
    ):
        assert ours.dtype == dtype, name
        growth = max(1.0, terms**0.5) if name in ("grad_scale", "grad_shift") else 1.0
        torch.testing.assert_close(
            ours.double().cpu(),
            oracle,
            rtol=relative * growth,
            atol=absolute * growth,
            msg=lambda text, name=name: f"{name}: {text}",
        )
