"""What an atrous convolution computes beside its sums."""

from __future__ import annotations

from typing import NamedTuple

import torch

from deeplab_repro.ops._atrous_native import behind_relu


class Nonlinear(NamedTuple):
    """What is computed beside the convolution: max(x, 0) before it, an activation after it."""

    before: str | None = None  # or "relu"
    after: str | None = None  # or "relu", "relu6"

    def read(self, x: torch.Tensor) -> torch.Tensor:
        """What the convolution reads of x."""
        return x if self.before is None else x.relu()

    def written(self, y: torch.Tensor) -> torch.Tensor:
        """What becomes of its result, in its place."""
        if self.after == "relu":
            return y.relu_()
        return y.clamp_(0, 6) if self.after == "relu6" else y

    def behind(self, grad_y: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The gradient of the convolution's result, of that of the activation's result y."""
        if self.after == "relu6":
            return torch.ops.aten.hardtanh_backward(grad_y, y, 0, 6)
        return behind_relu(grad_y, y)
