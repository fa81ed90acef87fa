"""The dense CRF as a layer, with parameters that can be learned."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deeplab_repro.crf.compatibility import OneCompatibility, read_compatibility
from deeplab_repro.crf.inference import Normalization, Output, dense_crf
from deeplab_repro.crf.params import CRFParams

__all__ = ["DenseCRF"]

_LEARNABLE = ("weights", "compatibility")


class DenseCRF(nn.Module):
    """:func:`~deeplab_repro.crf.dense_crf` as a module.

    Weights and compatibility are buffers, or parameters where ``learn`` names them.  Standard
    deviations cannot be learned: the lattice is not differentiable in its features.

    Args:
        params: kernels and iterations.
        compatibility: None is Potts, a number that many times Potts; (C,) or (C, C) else, as
            tensor, array or lists of numbers; for all kernels.
        normalization, relaxation, expnorm, padding_points: as of ``dense_crf``.
        learn: of ``"weights"`` and ``"compatibility"``.
        labels: C, where Potts, or a number times Potts, is the start of a compatibility to learn:
            (C, C), -1 or the number's negative on its diagonal.
        checkpoint: keep Q of each step only, and compute the rest again in the backward pass.

    Attributes:
        weights: (kernels,): spatial, bilateral, extra ones.
        compatibility: None, (C,), (C, C), or without axes, a number times Potts.

    Raises:
        TypeError: a compatibility of something else than numbers.
        ValueError: an unknown word in ``learn``; Potts to learn without ``labels``; a
            compatibility of another shape.

    >>> crf = DenseCRF(learn=["weights", "compatibility"], labels=21)
    >>> loss = nll_loss(crf(-scores, image, output="log"), labels, ignore_index=255)
    """

    weights: Tensor
    compatibility: Tensor | None

    def __init__(
        self,
        params: CRFParams = CRFParams(),  # noqa: B008 - frozen
        compatibility: OneCompatibility = None,
        normalization: Normalization = "after",
        relaxation: float = 1.0,
        *,
        learn: Collection[str] = (),
        labels: int | None = None,
        expnorm: str = "deeplab",
        padding_points: bool = False,
        checkpoint: bool = True,
    ) -> None:
        super().__init__()
        learned = {learn} if isinstance(learn, str) else set(learn)
        if not learned <= set(_LEARNABLE):
            raise ValueError(f"learn must be of {', '.join(_LEARNABLE)}, got {sorted(learned)}")
        mu = read_compatibility("DenseCRF", compatibility, None, torch.empty(0))
        if "compatibility" in learned and (mu is None or mu.dim() == 0):
            if labels is None:
                raise ValueError("to learn the compatibility from Potts on, give labels")
            mu = -torch.eye(labels) * (1 if mu is None else mu)
        self.params = params
        self.options: dict[str, Any] = {
            "normalization": normalization,
            "relaxation": relaxation,
            "expnorm": expnorm,
            "padding_points": padding_points,
            "checkpoint": checkpoint,
        }
        values = {"weights": torch.tensor(params.weights), "compatibility": mu}
        for name, value in values.items():
            if name in learned and value is not None:
                self.register_parameter(name, nn.Parameter(value.detach().clone()))
            else:
                self.register_buffer(name, value)

    def forward(self, unary: Tensor, image: Tensor | None, output: Output = "marginals") -> Tensor:
        """Energies (N, C, H, W) and image (N, channels, H, W) -> marginals, logs or labels."""
        return dense_crf(
            unary,
            image,
            self.params,
            compatibility=self.compatibility,
            output=output,
            weights=self.weights,
            **self.options,
        )

    if TYPE_CHECKING:  # nn.Module's own gives Any

        def __call__(
            self, unary: Tensor, image: Tensor | None, output: Output = "marginals"
        ) -> Tensor:
            """As :meth:`forward`."""
            ...

    def extra_repr(self) -> str:
        """The parameters and the options."""
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{self.params}, {options}"
