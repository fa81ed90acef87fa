"""The dense CRF as a layer, with parameters that can be learned."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from deeplab_repro.crf.compatibility import OneCompatibility, read_compatibility
from deeplab_repro.crf.inference import Normalization, Output, dense_crf
from deeplab_repro.crf.params import Bilateral, CRFParams, Std

__all__ = ["DenseCRF"]

T = TypeVar("T")
_LEARNABLE = ("weights", "compatibility", "stds")


def _stds(params: CRFParams) -> list[Std]:
    """Every std in order: of the spatial kernel, then of each bilateral one's two."""
    return [params.pos_xy_std, *(s for k in params.bilaterals for s in (k.xy_std, k.rgb_std))]


def _parts(stds: Sequence[Std], values: Iterable[T]) -> list[list[T]]:
    """The values that belong to each std: one, or as many as it has."""
    left = iter(values)
    return [[next(left) for _ in (s if isinstance(s, tuple) else (s,))] for s in stds]


def _each(values: list[T], count: int) -> list[T]:
    """One for each of ``count`` axes or channels."""
    return values * count if len(values) == 1 else values


class DenseCRF(nn.Module):
    """:func:`~deeplab_repro.crf.dense_crf` as a module.

    Weights, compatibility and standard deviations are buffers, or parameters where ``learn`` names
    them.

    Args:
        params: kernels and iterations.
        compatibility: None is Potts, a number that many times Potts; (C,) or (C, C) else, as
            tensor, array or lists of numbers; for all kernels.
        normalization, relaxation, expnorm, padding_points: as of ``dense_crf``.
        learn: of ``"weights"``, ``"compatibility"`` and ``"stds"``.
        labels: C, where Potts, or a number times Potts, is the start of a compatibility to learn:
            (C, C), -1 or the number's negative on its diagonal.
        checkpoint: keep Q of each step only, and compute the rest again in the backward pass.

    Attributes:
        weights: (kernels,): spatial, bilateral, extra ones.
        compatibility: None, (C,), (C, C), or without axes, a number times Potts.
        log_stds: logarithms of the stds in the order of ``params``, one of each number there; so
            they stay positive, and a step of learning changes all by like shares.

    Raises:
        TypeError: a compatibility of something else than numbers.
        ValueError: an unknown word in ``learn``; Potts to learn without ``labels``; a
            compatibility of another shape.

    >>> crf = DenseCRF(learn=["weights", "compatibility", "stds"], labels=21)
    >>> loss = nll_loss(crf(-scores, image, output="log"), labels, ignore_index=255)
    """

    weights: Tensor
    compatibility: Tensor | None
    log_stds: Tensor | None

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
        numbers = [n for s in _stds(params) for n in (s if isinstance(s, tuple) else (s,))]
        # The order of a DenseCRF layer's blobs, so that snapshots fit both where no blob in between
        # is left out.
        values = {
            "weights": torch.tensor(params.weights),
            "log_stds": torch.tensor(numbers).log() if "stds" in learned else None,
            "compatibility": mu,
        }
        for name, value in values.items():
            if name.removeprefix("log_") in learned and value is not None:
                self.register_parameter(name, nn.Parameter(value.detach().clone()))
            else:
                self.register_buffer(name, value)

    @torch.no_grad()
    def learned_params(self) -> CRFParams:
        """``params`` with the present weights and stds."""
        weights, stds = self.weights.tolist(), _stds(self.params)
        if self.log_stds is not None:
            parts = _parts(stds, self.log_stds.double().exp().tolist())
            stds = [
                tuple(part) if isinstance(std, tuple) else part[0]
                for std, part in zip(stds, parts, strict=True)
            ]
        pos_xy, *pairs = stds
        bi, *extra = map(Bilateral, weights[1:], pairs[::2], pairs[1::2])
        iterations = self.params.iterations
        return CRFParams(iterations, weights[0], pos_xy, bi.w, bi.xy_std, bi.rgb_std, tuple(extra))

    def _learned_stds(self, image: Tensor | None) -> list[Tensor] | None:
        """Of each kernel: x, y and each channel of the image."""
        if self.log_stds is None:
            return None
        channels = 0 if image is None else image.shape[1]
        pos_xy, *pairs = _parts(_stds(self.params), self.log_stds.exp().unbind())
        found = [torch.stack(_each(pos_xy, 2))]
        for xy, rgb in zip(pairs[::2], pairs[1::2], strict=True):
            found.append(torch.stack([*_each(xy, 2), *_each(rgb, channels)]))
        return found

    def forward(self, unary: Tensor, image: Tensor | None, output: Output = "marginals") -> Tensor:
        """Energies (N, C, H, W) and image (N, channels, H, W) -> marginals, logs or labels."""
        return dense_crf(
            unary,
            image,
            self.params,
            compatibility=self.compatibility,
            output=output,
            weights=self.weights,
            stds=self._learned_stds(image),
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
