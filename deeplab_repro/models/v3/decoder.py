"""The decoder of DeepLab v3+ (arXiv 1802.02611, section 3.1; model.py, refine_by_decoder).

Every stage reads a finer map of the backbone, projected to few channels, and brings it together
with the map so far: joined and smoothed by two 3x3 convolutions, or, in MobileNetV3's light form,
simply added.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from deeplab_repro.models.v3.aspp import head_separable, head_unit, relu
from deeplab_repro.models.v3.options import ModelOptions
from deeplab_repro.models.v3.parts import HEAD, GraphNames, Resize, Tap, mark

__all__ = ["Decoder", "DecoderStage"]

_SCOPE = "decoder"
#: Channels of a finer map that is joined.
_PROJECTED = 48


class DecoderStage(nn.Module):
    """The map so far and a finer one in the size of the finer one's stride, brought together.

    Args:
        stride: pixels of the input for a row or column of this stage.
        projection: makes few channels of the finer map.
        resizes: of the map so far and of the finer one.
        refine: convolutions: of the joined maps, or, with `is_sum`, of the map so far.
        is_sum: whether the finer map is added rather than joined.
        merged: stands for the joined maps or the sum.
    """

    def __init__(
        self,
        stride: int,
        projection: nn.Module,
        resizes: tuple[Resize, Resize],
        refine: nn.Module,
        is_sum: bool,
        merged: Tap,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.projection = projection
        self.resizes = nn.ModuleList(resizes)
        self.refine, self.is_sum, self.merged = refine, is_sum, merged

    def forward(self, x: Tensor, finer: Tensor, size: tuple[int, int]) -> Tensor:
        """Bring both together.

        Args:
            x: (N, C, H, W), the map so far.
            finer: (N, C', H', W').
            size: (height, width) of the picture.

        Returns:
            (N, K, ceil(height / stride), ceil(width / stride)).
        """
        height, width = ((side - 1) // self.stride + 1 for side in size)
        finer = self.projection(finer)
        first, second = self.resizes
        x, finer = first(x, (height, width)), second(finer, (height, width))
        if self.is_sum:
            y: Tensor = self.merged(self.refine(x) + finer)
        else:
            y = self.refine(self.merged(torch.cat([x, finer], 1)))
        return y

    def extra_repr(self) -> str:
        """Its stride, and how maps come together."""
        return f"stride={self.stride}, merge={'SUM' if self.is_sum else 'CONCAT'}"


class Decoder(nn.Module):
    """Stages from the coarsest on.

    Args:
        options: of the network.
        channels: of the map that it starts from.
        low_level: channels of the backbone's finer maps by stride.
        names: of the operations up to here.
    """

    def __init__(
        self, options: ModelOptions, channels: int, low_level: Mapping[int, int], names: GraphNames
    ) -> None:
        super().__init__()
        stages = []
        for i, stride in enumerate(options.decoder_strides):
            stages.append(_stage(options, i, stride, channels, low_level[stride], names))
            channels = options.decoder_filters
        self.stages = nn.ModuleList(stages)
        self.channels = channels

    def forward(self, x: Tensor, finer: Mapping[int, Tensor], size: tuple[int, int]) -> Tensor:
        """The refined map (N, K, h, w).

        Args:
            x: (N, C, H, W).
            finer: the backbone's maps by stride.
            size: (height, width) of the picture.
        """
        for stage in self.stages:
            x = stage(x, finer[stage.stride], size)  # type: ignore[index]
        return x


def _stage(
    options: ModelOptions, i: int, stride: int, channels: int, finer: int, names: GraphNames
) -> DecoderStage:
    is_sum, is_logits = options.decoder_use_sum_merge, options.decoder_output_is_logits
    depth, suffix = options.decoder_filters, f"_{i}" if i else ""
    # Scores have neither a normalization nor an activation, and are not made by separable units.
    norm = None if is_logits else HEAD
    separable = options.decoder_use_separable_conv and not is_logits

    def activation() -> nn.Module | None:
        return None if is_logits else relu(options.use_bounded_activation)

    def unit(name: str, read: int, written: int, kernel: int) -> nn.Module:
        scope = f"{_SCOPE}/{name}"
        if separable and kernel > 1:
            return head_separable(names, scope, read, written, activation=relu(bounded))
        return head_unit(names, scope, read, written, kernel, norm=norm, activation=activation())

    bounded = options.use_bounded_activation
    projected = depth if is_sum else _PROJECTED
    projection = unit(f"feature_projection0{suffix}", finer, projected, 1)
    names.sizes(f"{_SCOPE}/")
    resizes = tuple(mark(Resize(), names(f"{_SCOPE}/ResizeBilinear")) for _ in range(2))
    if is_sum:
        name = "decoder_split_sep_conv0" if separable else "decoder_conv0"
        refine = unit(f"{name}{suffix}", channels, depth, 1 if is_logits else 3)
        merged = mark(Tap(), names(f"{_SCOPE}/add"))
    else:
        merged = mark(Tap(), names(f"{_SCOPE}/concat"))
        if separable:
            scopes = [f"decoder_conv{j}{suffix}" for j in (0, 1)]
        else:
            scopes = [f"decoder_conv0{suffix}/decoder_conv0{suffix}_{j}" for j in (1, 2)]
        refine = nn.Sequential(
            unit(scopes[0], channels + projected, depth, 3), unit(scopes[1], depth, depth, 3)
        )
    return DecoderStage(stride, projection, resizes, refine, is_sum, merged)  # type: ignore[arg-type]
