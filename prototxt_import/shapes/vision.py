"""Shape rules of layers that slide windows over maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prototxt_import.shapes.core import (
    LayerShapes,
    at_axis,
    canonical_axis,
    count,
    fail,
    is_legacy,
    legacy,
    require_equal,
    rule,
    same_shape,
    show,
)
from prototxt_import.shapes.geometry import (
    Window,
    conv_output,
    conv_window,
    deconv_output,
    interp,
    pooling,
    spp_pool,
)

if TYPE_CHECKING:
    from prototxt_import.net import Layer, Shape


def _positive(layer: Layer, what: str, sizes: Shape, bottom: Shape) -> Shape:
    if any(size is not None and size < 1 for size in sizes):
        fail(
            layer,
            f"{what} leaves nothing of the bottom",
            expected="sizes of at least 1",
            got=f"{show(sizes)} from {show(bottom)}",
        )
    return sizes


def _four_axes(layer: Layer, shape: Shape) -> Shape:
    if len(shape) != 4:
        fail(layer, "bottom must be num x channels x height x width", got=show(shape))
    return shape


@rule("Convolution", "Deconvolution", bottoms=(1, None), tops=(1, None))
def _convolution(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """base_conv_layer.cpp: every bottom is convolved with the same weights, a top each.

    The weights are num_output x C/group x kernel, or C x num_output/group x kernel for
    Deconvolution; the bias num_output, in the v1 fork 1x1x1xnum_output.
    """
    spec = layer.spec.convolution_param
    if len(layer.tops) != len(bottoms):
        fail(layer, "needs as many tops as bottoms", expected=len(bottoms), got=len(layer.tops))
    bottom = same_shape(layer, bottoms)
    axis = canonical_axis(layer, spec.axis, len(bottom))
    window = conv_window(layer, len(bottom) - axis - 1)
    channels, outputs, groups = bottom[axis], spec.num_output, spec.group
    if outputs < 1:
        fail(layer, "num_output is missing or zero")
    if groups < 1:
        fail(layer, "group is zero")
    for what, number in (("channels", channels), ("num_output", outputs)):
        if number is not None and number % groups:
            fail(layer, f"{what} is no multiple of group", expected=f"n * {groups}", got=number)

    transposed = layer.type == "Deconvolution"
    per_group = None if channels is None else channels // groups
    weight: Shape = (channels, outputs // groups) if transposed else (outputs, per_group)
    params: list[Shape] = [(*weight, *window.kernel)]
    if spec.bias_term:
        params.append((1, 1, 1, outputs) if is_legacy(layer) else (outputs,))
    maps = _slide(layer, bottom[axis + 1 :], window, transposed, bottom)
    return LayerShapes([(*bottom[:axis], outputs, *maps)] * len(bottoms), params)


def _slide(layer: Layer, maps: Shape, window: Window, transposed: bool, bottom: Shape) -> Shape:
    size = deconv_output if transposed else conv_output
    out = tuple(
        None if n is None else size(n, kernel, stride, pad, dilation)
        for n, kernel, stride, pad, dilation in zip(
            maps, window.kernel, window.stride, window.pad, window.dilation, strict=True
        )
    )
    return _positive(layer, f"kernel {show(window.kernel)}", out, bottom)


@rule("Im2col")
def _im2col(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """im2col_layer.cpp: every tap of the kernel becomes a channel."""
    (bottom,) = bottoms
    axis = canonical_axis(layer, layer.spec.convolution_param.axis, len(bottom))
    window = conv_window(layer, len(bottom) - axis - 1)
    maps = _slide(layer, bottom[axis + 1 :], window, False, bottom)
    return LayerShapes([(*bottom[:axis], count([bottom[axis], *window.kernel]), *maps)])


@rule("Pooling", tops=(1, 2))
def _pooling(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """pooling_layer.cpp; the second top of MAX holds where in the map each maximum was."""
    num, channels, *maps = bottom = _four_axes(layer, bottoms[0])
    pool = pooling(layer)
    if len(layer.tops) > 1 and pool.method != "MAX":
        fail(layer, "only MAX has a second top", expected=1, got=len(layer.tops))
    out = pool.output(maps)
    if pool.kernel is not None:
        _positive(layer, f"kernel {show(pool.kernel)}", out, bottom)
    top: Shape = (num, channels, *out)
    return LayerShapes([top] * max(1, len(layer.tops)))


@rule("SPP")
def _spp(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """spp_layer.cpp: the bins of every level one after the other; a single level keeps 4 axes."""
    num, channels, *maps = _four_axes(layer, bottoms[0])
    height = layer.spec.spp_param.pyramid_height
    if height < 1:
        fail(layer, "pyramid_height is missing or zero")
    if height > 16:  # 4**16 bins alone are more values than a blob can have
        fail(layer, "bad pyramid_height", expected="1..16", got=height)
    if None not in maps:
        for level in range(height):
            spp_pool(layer, level, [size for size in maps if size is not None])
    if height == 1:
        return LayerShapes([(num, channels, 1, 1)])
    bins = sum(4**level for level in range(height))
    return LayerShapes([(num, count([channels, bins]))])


@rule("LRN")
def _lrn(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """lrn_layer.cpp."""
    if layer.spec.lrn_param.local_size % 2 == 0:
        fail(layer, "local_size must be odd", got=layer.spec.lrn_param.local_size)
    return LayerShapes([_four_axes(layer, bottoms[0])])


@rule("Interp")
def _interp(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """interp_layer.cpp of both DeepLab forks."""
    num, channels, height, width = bottom = legacy(layer, bottoms[0])
    form = interp(layer)
    cropped = tuple(None if n is None else n + form.pad_beg + form.pad_end for n in (height, width))
    _positive(layer, "pad_beg and pad_end", cropped, bottom)
    out = (form.output(height, form.height), form.output(width, form.width))
    return LayerShapes([(num, channels, *_positive(layer, "interpolation", out, bottom))])


@rule("Padding")
def _padding(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """padding_layer.cpp of the v1 fork: zeros around the map, or a crop."""
    num, channels, *maps = bottom = legacy(layer, bottoms[0])
    spec = layer.spec.padding_param
    if spec.pad_beg * spec.pad_end < 0:
        fail(layer, "pad_beg and pad_end must not pad at one end and crop at the other",
             got=f"{spec.pad_beg}, {spec.pad_end}")  # fmt: skip
    out = tuple(None if n is None else n + spec.pad_beg + spec.pad_end for n in maps)
    return LayerShapes([(num, channels, *_positive(layer, "padding", out, bottom))])


@rule("Crop", bottoms=2)
def _crop(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """crop_layer.cpp: bottom 0 cut to bottom 1's sizes, from ``axis`` on."""
    bottom, reference = bottoms
    spec = layer.spec.crop_param
    axis = canonical_axis(layer, spec.axis, len(bottom))
    axes, offsets = len(bottom) - axis, list(spec.offset)
    if len(reference) != len(bottom):
        fail(layer, "bottoms must have as many axes", expected=len(bottom), got=len(reference))
    if len(offsets) > 1 and len(offsets) != axes:
        fail(layer, "offset has the wrong number of values", expected=f"0, 1 or {axes}",
             got=len(offsets))  # fmt: skip
    offsets = offsets * axes if len(offsets) == 1 else offsets or [0] * axes
    for i, (n, size, offset) in enumerate(
        zip(bottom[axis:], reference[axis:], offsets, strict=True), start=axis
    ):
        if n is not None and size is not None and offset + size > n:
            fail(layer, f"the crop exceeds axis {i}", expected=f"offset + size <= {n}",
                 got=f"{offset} + {size}")  # fmt: skip
    return LayerShapes([(*bottom[:axis], *reference[axis:])])


@rule("DenseCRF", bottoms=(2, 3))
def _dense_crf(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """densecrf_layer.cpp: scores, image sizes and, where there are bilateral terms, the image."""
    scores = legacy(layer, bottoms[0])
    spec = layer.spec.dense_crf_param
    for first, second in (("pos_w", "pos_xy_std"), ("bi_w", "bi_xy_std"), ("bi_w", "bi_rgb_std")):
        if len(getattr(spec, first)) != len(getattr(spec, second)):
            fail(layer, f"{first} and {second} must be equally many",
                 expected=len(getattr(spec, first)), got=len(getattr(spec, second)))  # fmt: skip
    require_equal(layer, "batch sizes of bottoms 0 and 1", scores[0], legacy(layer, bottoms[1])[0])
    if len(bottoms) == 3:
        if not len(spec.bi_w):
            fail(layer, "an image is given, but no bilateral term (bi_w)")
        image = legacy(layer, bottoms[2])
        require_equal(layer, "channels of the image", 3, image[1])
        for what, i in (("batch sizes", 0), ("heights", 2), ("widths", 3)):
            require_equal(layer, f"{what} of scores and image", scores[i], image[i])
    return LayerShapes([scores])


@rule("SpatialProduct", bottoms=2)
def _spatial_product(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """spatial_product_layer.cpp: one weight per pixel times every channel."""
    bottom, weight = (legacy(layer, shape) for shape in bottoms)
    same_shape(layer, [at_axis(bottom, 1, 1), weight])
    return LayerShapes([bottoms[0]])
