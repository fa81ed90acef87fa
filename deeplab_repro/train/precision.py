"""In which numbers a training computes: float32 as Caffe, or 16 bits where they are enough."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor, nn

from deeplab_repro.caffe.layers.base import CaffeLayer
from deeplab_repro.errors import InputError
from deeplab_repro.train.optim import CaffeOptimizer

__all__ = ["PRECISIONS", "MixedPrecision", "Precision"]

Precision = Literal["float32", "bfloat16", "float16"]
PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)

#: Layers that compute in the numbers that they are given; autocast casts for those with weights.
_AS_GIVEN: Final = frozenset(
    {
        "Concat",
        "Convolution",
        "Crop",
        "Deconvolution",
        "Dropout",
        "Eltwise",
        "Flatten",
        "InnerProduct",
        "Padding",
        "Pooling",
        "ReLU",
        "Reshape",
        "Silence",
        "Slice",
        "Split",
    }
)
#: Layers whose tops, of all channels of a map, are worth rounding after float32 arithmetic.
_ROUNDED: Final = frozenset(("BatchNorm", "Bias", "Scale"))


class MixedPrecision:
    """Runs a network's forward and backward pass in numbers of 16 bits, with float32 weights.

    Convolutions and matrix products take 16 bits; so do the maps between them.  BatchNorm and Scale
    compute in float32, and so do losses and all that stands before them but behind the scores.
    Gradients of weights, the solver's arithmetic and snapshots are float32.

    float16 has a small range: the loss is multiplied by a power of two, which is found while
    training (``torch.amp.GradScaler``), and an update whose gradients are infinite is left out.

    Args:
        precision: ``"float32"`` changes nothing.
        device: where the network is.

    Raises:
        InputError: another precision, or float16 on the CPU.
    """

    def __init__(self, precision: str, device: torch.device) -> None:
        if precision not in PRECISIONS:
            raise InputError("precision", expected=" or ".join(PRECISIONS), got=precision)
        if precision == "float16" and device.type == "cpu":
            raise InputError(
                "precision float16 needs a GPU", expected="bfloat16 or float32 on the CPU"
            )
        self._device = device
        self._dtype: torch.dtype = getattr(torch, precision)
        self._is_mixed = precision != "float32"
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")

    def prepare(self, net: nn.Module) -> None:
        """Let the Caffe layers of a network compute in the numbers that suit them."""
        if not self._is_mixed:
            return
        for module in net.modules():
            if isinstance(module, CaffeLayer) and not self._takes_16_bits(module):
                module.register_forward_pre_hook(_widen)
                if module.layer.type in _ROUNDED:
                    module.register_forward_hook(self._round)

    def forward(self) -> AbstractContextManager[Any]:
        """A context for the forward pass."""
        return torch.autocast(self._device.type, self._dtype, enabled=self._is_mixed)

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients to those of the parameters."""
        self._scaler.scale(loss).backward()

    def step(self, optimizer: CaffeOptimizer) -> None:
        """Update the parameters by their gradients."""
        self._scaler.step(optimizer)
        self._scaler.update()

    def _takes_16_bits(self, module: CaffeLayer) -> bool:
        # A second top of Pooling says where the maxima were, in numbers that 16 bits do not hold;
        # and padding for it, the least float32, is none of float16's.
        is_plain = module.num_tops == 1 and self._dtype == torch.bfloat16
        return module.layer.type in _AS_GIVEN and (is_plain or module.layer.type != "Pooling")

    def _round(self, module: nn.Module, bottoms: Any, top: Tensor) -> Tensor:
        return top.to(self._dtype)


def _widen(module: nn.Module, bottoms: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        b.float() if isinstance(b, Tensor) and b.dtype in (torch.bfloat16, torch.float16) else b
        for b in bottoms
    )
