"""The dense prediction cell, found by search, in place of ASPP (arXiv 1809.04184).

Every operation reads the backbone's map or an earlier operation's; the maps of all are joined and
projected (core/dense_prediction_cell.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deeplab_repro.models.atrous import rates_at
from deeplab_repro.models.modules import ImageLevel
from deeplab_repro.models.v3.aspp import DROPOUT, head_separable, head_unit
from deeplab_repro.models.v3.options import ModelOptions
from deeplab_repro.models.v3.parts import GraphNames, Tap, WindowMean, mark

__all__ = ["DensePredictionCell", "dense_prediction_cell"]

_SCOPE = "meta_architecture"
_CHANNELS = 256


class DensePredictionCell(nn.Module):
    """Operations that read each other's maps, joined at the end.

    Args:
        operations: in order.
        inputs: which operation each of them reads; -1: the backbone's map.
        after: what follows the joined maps.
    """

    def __init__(
        self, operations: Sequence[nn.Module], inputs: Sequence[int], after: nn.Module
    ) -> None:
        super().__init__()
        self.operations = nn.ModuleList(operations)
        self.inputs = tuple(inputs)
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H, W)."""
        maps: list[Tensor] = []
        for operation, read in zip(self.operations, self.inputs, strict=True):
            maps.append(operation(x if read < 0 else maps[read]))
        y: Tensor = self.after(torch.cat(maps, 1))
        return y

    def extra_repr(self) -> str:
        """Who reads whom."""
        return f"inputs={self.inputs}"


def dense_prediction_cell(
    options: ModelOptions, channels: int, names: GraphNames
) -> tuple[nn.Module, int]:
    """The cell of the options, whose rates are those at output stride 16, and its channels."""
    config = options.dense_prediction_cell_config or ()
    operations: list[nn.Module] = []
    pools = 0
    for i, branch in enumerate(config):
        read = channels if branch["input"] < 0 else _CHANNELS
        scope = f"{_SCOPE}/branch{i}"
        if branch["op"] == "pyramid_pooling":
            grid = branch["grid_size"]
            window = WindowMean(
                options.image_pooling_crop_size or options.crop_size,
                (options.output_stride * grid[0], options.output_stride * grid[1]),
            )
            pool_scope = f"AvgPool2D_{pools}" if pools else "AvgPool2D"
            mark(window, names(f"{_SCOPE}/{pool_scope}/AvgPool"))
            pools += 1
            unit = head_unit(names, scope, read, _CHANNELS, activation=nn.ReLU(inplace=True))
            level = ImageLevel(window, unit)
            operations.append(mark(level, names(f"{_SCOPE}/ResizeBilinear")))
        elif branch["kernel"] in (1, [1, 1], (1, 1)):
            operations.append(
                head_unit(names, scope, read, _CHANNELS, activation=nn.ReLU(inplace=True))
            )
        else:
            rows, columns = rates_at(options.output_stride, tuple(branch["rate"]))
            operations.append(
                head_separable(
                    names,
                    scope,
                    read,
                    _CHANNELS,
                    branch["kernel"],
                    rate=(rows, columns),
                    activation=nn.ReLU(inplace=True),
                )
            )
    joined = names(f"{_SCOPE}/concat") + ("" if len(operations) > 1 else "/concat")
    scope = f"{_SCOPE}/concat_projection"
    after = nn.Sequential()
    after.add_module("concat", mark(Tap(), joined))
    # Before the projection here, behind it in ASPP.
    dropped = names(f"{scope}_dropout/Identity")
    after.add_module("dropout", mark(nn.Dropout(DROPOUT), dropped))
    after.add_module(
        "projection",
        head_unit(
            names, scope, len(config) * _CHANNELS, _CHANNELS, activation=nn.ReLU(inplace=True)
        ),
    )
    cell = DensePredictionCell(operations, [branch["input"] for branch in config], after)
    return cell, _CHANNELS
