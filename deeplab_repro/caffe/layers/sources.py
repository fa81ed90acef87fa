"""Layers without bottoms, and layers without tops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deeplab_repro.caffe.layers.base import CaffeLayer, register
from deeplab_repro.caffe.layers.fillers import fill
from prototxt_import.schema import unified

if TYPE_CHECKING:
    from prototxt_import.net import Layer, Shape
    from prototxt_import.shapes import LayerShapes

__all__ = ["DummyData", "FedFromOutside", "Parameter", "Sink"]


@register("DummyData")
class DummyData(CaffeLayer):
    """Filled blobs: constants once, random ones anew in every pass (dummy_data_layer.cpp)."""

    def __init__(self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes) -> None:
        super().__init__(layer, bottoms, shapes)
        spec = layer.spec.dummy_data_param
        fillers = list(spec.data_filler) or [unified("FillerParameter")()]
        self.data_fillers = fillers * self.num_tops if len(fillers) == 1 else fillers
        for i, shape in enumerate(shapes.tops):
            value = torch.empty([size for size in shape if size is not None])
            self.register_buffer(f"data{i}", fill(value, self.data_fillers[i]), persistent=False)

    def forward(self) -> Tensor | tuple[Tensor, ...]:
        """Shapes as the file says."""
        tops = []
        for i, filler in enumerate(self.data_fillers):
            value: Tensor = getattr(self, f"data{i}")
            constant = filler.type == "constant"
            # A copy, because layers further on may work in place.
            tops.append(value.clone() if constant else fill(torch.empty_like(value), filler))
        return tops[0] if len(tops) == 1 else tuple(tops)


@register("Parameter")
class Parameter(CaffeLayer):
    """A blob that is itself learned; zeros at first (parameter_layer.hpp)."""

    shares_memory = True

    def forward(self) -> Tensor:
        """Shape as the file says."""
        return self.blob(0)


@register("Silence", "HDF5Output", "MatWrite")
class Sink(CaffeLayer):
    """Takes blobs and makes none (silence_layer.cpp); files are not written from here."""

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        """Anything."""
        return ()


@register("HDF5Data", "ImageData", "ImageSegData", "Input", "MatRead", "MemoryData")
class FedFromOutside(CaffeLayer):
    """A source whose tops are inputs of the network."""

    def forward(self) -> Tensor:
        """Never: the caller gives its tops."""
        self.refuse("its tops are inputs, to be given to the network")
