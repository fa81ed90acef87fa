"""Shape rules of layers that have no bottom: inputs, data files, filled blobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prototxt_import.shapes.core import LayerShapes, fail, is_legacy, rule

if TYPE_CHECKING:
    from prototxt_import.net import Layer, Shape


def _labels(layer: Layer, batch: int | None) -> Shape:
    return (batch, 1, 1, 1) if is_legacy(layer) else (batch,)


@rule("Input", bottoms=0, tops=(1, None))
def _input(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """input_layer.cpp: one shape for all tops, or one each."""
    shapes: list[Shape] = [tuple(shape.dim) for shape in layer.spec.input_param.shape]
    if len(shapes) not in (1, len(layer.tops)):
        fail(layer, "needs one shape, or one per top", expected=f"1 or {len(layer.tops)}",
             got=len(shapes))  # fmt: skip
    return LayerShapes(shapes * len(layer.tops) if len(shapes) == 1 else shapes)


@rule("Parameter", bottoms=0)
def _parameter(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """parameter_layer.hpp: a top that is itself learned."""
    shape = tuple(layer.spec.parameter_param.shape.dim)
    return LayerShapes([shape], [shape])


@rule("DummyData", bottoms=0, tops=(1, None))
def _dummy_data(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """dummy_data_layer.cpp: shapes, or the older num, channels, height and width."""
    spec, tops = layer.spec.dummy_data_param, len(layer.tops)
    if len(spec.data_filler) not in (0, 1, tops):
        fail(layer, "needs one data_filler, or one per top, or none", expected=f"0, 1 or {tops}",
             got=len(spec.data_filler))  # fmt: skip
    if len(spec.shape):
        if any(len(getattr(spec, name)) for name in ("num", "channels", "height", "width")):
            fail(layer, "shape and num, channels, height, width are both given")
        shapes: list[Shape] = [tuple(shape.dim) for shape in spec.shape]
    else:
        columns = [list(getattr(spec, name)) for name in ("num", "channels", "height", "width")]
        if len({len(column) for column in columns}) != 1:
            fail(layer, "num, channels, height and width must be equally many",
                 got=", ".join(str(len(column)) for column in columns))  # fmt: skip
        shapes = list(zip(*columns, strict=True))
    if len(shapes) not in (1, tops):
        fail(layer, "needs one shape, or one per top", expected=f"1 or {tops}", got=len(shapes))
    return LayerShapes(shapes * tops if len(shapes) == 1 else shapes)


@rule("MemoryData", bottoms=0, tops=2)
def _memory_data(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """memory_data_layer.cpp."""
    spec = layer.spec.memory_data_param
    size = tuple(
        getattr(spec, name) or None for name in ("batch_size", "channels", "height", "width")
    )
    return LayerShapes([size, _labels(layer, size[0])])


def _image_size(layer: Layer) -> Shape:
    """Channels, height and width of what image_data_param and transform_param let through."""
    spec, transform = layer.spec.image_data_param, layer.spec.transform_param
    crop = transform.crop_size or spec.crop_size
    height = crop or transform.crop_height or spec.new_height or None
    width = crop or transform.crop_width or spec.new_width or None
    return (3 if spec.is_color else 1), height, width


@rule("ImageData", bottoms=0, tops=(1, 2))
def _image_data(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """image_data_layer.cpp: pictures and a label each."""
    batch = layer.spec.image_data_param.batch_size or None
    tops = [(batch, *_image_size(layer)), _labels(layer, batch)]
    return LayerShapes(tops[: len(layer.tops)])


@rule("ImageSegData", bottoms=0, tops=(1, 3))
def _image_seg_data(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """image_seg_data_layer.cpp: pictures, label maps, and (height, width) before padding."""
    batch = layer.spec.image_data_param.batch_size or None
    channels, height, width = _image_size(layer)
    tops: list[Shape] = [
        (batch, channels, height, width),
        (batch, 1, height, width),
        (batch, 1, 1, 2),
    ]
    return LayerShapes(tops[: len(layer.tops)])


@rule("HDF5Data", "MatRead", bottoms=0, tops=(1, None))
def _array_file(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """hdf5_data_layer.cpp, mat_read_layer.cpp: all but the batch size stands in the data files."""
    hdf5 = layer.type == "HDF5Data"
    spec = layer.spec.hdf5_data_param if hdf5 else layer.spec.mat_read_param
    return LayerShapes([(spec.batch_size or None, None, None, None)] * len(layer.tops))
