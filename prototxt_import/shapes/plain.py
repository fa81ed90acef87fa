"""Shape rules of layers that move, mix or scale values without a window."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from prototxt_import.shapes.core import (
    LayerShapes,
    at_axis,
    canonical_axis,
    count,
    enum_name,
    fail,
    is_legacy,
    legacy,
    require_equal,
    rule,
    same_shape,
    show,
)

if TYPE_CHECKING:
    from prototxt_import.net import Layer, Shape


@rule(
    "AbsVal", "BNLL", "Clip", "Dropout", "ELU", "Exp", "Log", "Power", "ReLU", "Sigmoid",
    "Softmax", "Swish", "TanH", "Threshold",
)  # fmt: skip
def _like_bottom(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """Layers whose top is shaped like their bottom (neuron_layer.cpp, softmax_layer.cpp)."""
    spec = layer.spec
    if layer.type == "Softmax":
        canonical_axis(layer, spec.softmax_param.axis, len(bottoms[0]))
    elif layer.type == "Clip":
        for name in ("min", "max"):
            if not spec.clip_param.HasField(name):
                fail(layer, f"clip_param has no {name}")
    elif layer.type == "Dropout" and not 0 <= spec.dropout_param.dropout_ratio < 1:
        fail(layer, "bad dropout_ratio", expected="at least 0, less than 1",
             got=spec.dropout_param.dropout_ratio)  # fmt: skip
    elif layer.type in ("Exp", "Log"):
        base = (spec.exp_param if layer.type == "Exp" else spec.log_param).base
        if base != -1 and (base <= 0 or not math.isfinite(base)):
            fail(layer, "bad base", expected="-1 (for e) or more than 0", got=base)
        if layer.type == "Log" and base == 1:
            fail(layer, "bad base", expected="anything but 1", got=base)
    return LayerShapes([bottoms[0]])


@rule("PReLU")
def _prelu(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """prelu_layer.cpp: one slope per channel, or a single one without axes."""
    (bottom,) = bottoms
    if len(bottom) < 2:
        fail(layer, "bottom must have at least 2 axes", got=show(bottom))
    return LayerShapes([bottom], [() if layer.spec.prelu_param.channel_shared else (bottom[1],)])


@rule("BatchNorm")
def _batch_norm(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """batch_norm_layer.cpp: sums of means and of variances, and the factor to divide them by."""
    (bottom,) = bottoms
    channels = 1 if len(bottom) == 1 else bottom[1]
    return LayerShapes([bottom], [(channels,), (channels,), (1,)])


@rule("MVN")
def _mvn(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """mvn_layer.cpp: the top has four axes, whatever the bottom has."""
    return LayerShapes([legacy(layer, bottoms[0])])


@rule("Scale", "Bias", bottoms=(1, 2))
def _affine(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """scale_layer.cpp, bias_layer.cpp: factors along the axes [axis, axis + num_axes).

    They are a parameter, or the second bottom; a Scale's bias is always a parameter.
    """
    bottom = bottoms[0]
    spec: Any = layer.spec.scale_param if layer.type == "Scale" else layer.spec.bias_param
    if len(bottoms) == 2:
        factors = bottoms[1]
        axis = canonical_axis(layer, spec.axis, len(bottom)) if factors else 0
        if axis + len(factors) > len(bottom):
            fail(layer, "bottom 1 has too many axes", expected=f"at most {len(bottom) - axis}",
                 got=len(factors))  # fmt: skip
        covered = bottom[axis : axis + len(factors)]
        if factors:
            factors = same_shape(layer, [covered, factors])
    else:
        if spec.num_axes < -1:
            fail(layer, "bad num_axes", expected=">= -1", got=spec.num_axes)
        axis = canonical_axis(layer, spec.axis, len(bottom))
        end = len(bottom) if spec.num_axes == -1 else axis + spec.num_axes
        if end > len(bottom):
            fail(layer, "axis + num_axes is beyond the bottom's axes",
                 expected=f"at most {len(bottom)}", got=end)  # fmt: skip
        factors = bottom[axis:end]
    params = [factors] if len(bottoms) == 1 else []
    if layer.type == "Scale" and spec.bias_term:
        params.append(factors)
    return LayerShapes([bottom], params)


@rule("InnerProduct")
def _inner_product(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """inner_product_layer.cpp: the axes from ``axis`` on become num_output values."""
    (bottom,) = bottoms
    spec = layer.spec.inner_product_param
    outputs = spec.num_output
    if outputs < 1:
        fail(layer, "num_output is missing or zero")
    if is_legacy(layer):
        params: list[Shape] = [(1, 1, outputs, count(bottom[1:]))]
        if spec.bias_term:
            params.append((1, 1, 1, outputs))
        return LayerShapes([(bottom[0], outputs, 1, 1)], params)
    axis = canonical_axis(layer, spec.axis, len(bottom))
    inputs = count(bottom[axis:])
    params = [(inputs, outputs) if spec.transpose else (outputs, inputs)]
    if spec.bias_term:
        params.append((outputs,))
    return LayerShapes([(*bottom[:axis], outputs)], params)


@rule("Embed")
def _embed(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """embed_layer.cpp: every value of the bottom is the number of a row of the weights."""
    spec = layer.spec.embed_param
    if spec.num_output < 1 or spec.input_dim < 1:
        fail(layer, "num_output and input_dim must be positive",
             got=f"{spec.num_output}, {spec.input_dim}")  # fmt: skip
    params: list[Shape] = [(spec.input_dim, spec.num_output)]
    if spec.bias_term:
        params.append((spec.num_output,))
    return LayerShapes([(*bottoms[0], spec.num_output)], params)


@rule("Eltwise", bottoms=(2, None))
def _eltwise(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """eltwise_layer.cpp."""
    spec = layer.spec.eltwise_param
    if len(spec.coeff) not in (0, len(bottoms)):
        fail(layer, "needs one coeff per bottom, or none", expected=len(bottoms),
             got=len(spec.coeff))  # fmt: skip
    if len(spec.coeff) and enum_name(spec, "operation") == "PROD":
        fail(layer, "PROD takes no coeff")
    return LayerShapes([same_shape(layer, bottoms)])


@rule("Concat", bottoms=(1, None))
def _concat(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """concat_layer.cpp; concat_dim is axis's old name."""
    axis = joining_axis(layer, layer.spec.concat_param, "concat_dim", len(bottoms[0]))
    for number, bottom in enumerate(bottoms):
        if len(bottom) != len(bottoms[0]):
            fail(layer, f"bottom {number} has other axes than bottom 0", expected=len(bottoms[0]),
                 got=len(bottom))  # fmt: skip
    sizes = [bottom[axis] for bottom in bottoms]
    total = None if None in sizes else sum(size for size in sizes if size is not None)
    rest = same_shape(layer, [at_axis(bottom, axis, None) for bottom in bottoms])
    return LayerShapes([at_axis(rest, axis, total)])


def joining_axis(layer: Layer, spec: Any, old_name: str, axes: int) -> int:
    """The axis of a Concat or Slice, which the v1 fork calls ``old_name``."""
    if spec.HasField(old_name):
        if spec.HasField("axis"):
            fail(layer, f"axis and {old_name} are both given")
        axis = getattr(spec, old_name)
        if is_legacy(layer) and axis > 1:
            fail(layer, f"bad {old_name}", expected="0 or 1", got=axis)
        return canonical_axis(layer, axis, axes, what=old_name)
    return canonical_axis(layer, spec.axis, axes)


@rule("Slice", tops=(1, None))
def _slice(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """slice_layer.cpp; slice_dim is axis's old name."""
    (bottom,) = bottoms
    spec = layer.spec.slice_param
    axis = joining_axis(layer, spec, "slice_dim", len(bottom))
    n, tops, points = bottom[axis], len(layer.tops), list(spec.slice_point)
    if points:
        if len(points) != tops - 1:
            fail(layer, "needs one slice_point fewer than tops", expected=tops - 1,
                 got=len(points))  # fmt: skip
        edges = [0, *points]
        if any(a >= b for a, b in zip(edges, points, strict=False)):
            fail(layer, "slice points must rise", got=points)
        if n is not None and points[-1] >= n:
            fail(layer, "slice point beyond the bottom", expected=f"< {n}", got=points[-1])
        sizes: list[int | None] = [b - a for a, b in zip(edges, points, strict=False)]
        sizes.append(None if n is None else n - points[-1])
    else:
        if n is not None and n % tops:
            fail(layer, "the axis does not split evenly", expected=f"a multiple of {tops}", got=n)
        sizes = [None if n is None else n // tops] * tops
    return LayerShapes([at_axis(bottom, axis, size) for size in sizes])


@rule("Split", tops=(1, None))
def _split(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """split_layer.cpp."""
    return LayerShapes([bottoms[0]] * len(layer.tops))


@rule("Silence", "HDF5Output", "MatWrite", bottoms=(1, None), tops=0)
def _sink(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """Layers that make nothing (silence_layer.cpp, hdf5_output_layer.cpp, mat_write_layer.cpp)."""
    return LayerShapes([])


@rule("Flatten")
def _flatten(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """flatten_layer.cpp; in the v1 fork the top keeps four axes."""
    (bottom,) = bottoms
    if is_legacy(layer):
        return LayerShapes([(bottom[0], count(bottom[1:]), 1, 1)])
    spec = layer.spec.flatten_param
    first = canonical_axis(layer, spec.axis, len(bottom))
    last = canonical_axis(layer, spec.end_axis, len(bottom), what="end_axis")
    if last < first:
        # flatten_layer.cpp would insert an axis of size 1 here.
        return LayerShapes([(*bottom[:first], 1, *bottom[last + 1 :])])
    return LayerShapes([(*bottom[:first], count(bottom[first : last + 1]), *bottom[last + 1 :])])


@rule("Reshape")
def _reshape(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """reshape_layer.cpp: new sizes for the axes [axis, axis + num_axes); 0 copies, -1 infers."""
    (bottom,) = bottoms
    spec = layer.spec.reshape_param
    dims = list(spec.shape.dim)
    # A negative axis counts the places between axes, so that -1 means "after the last".
    start = canonical_axis(layer, spec.axis, len(bottom) + 1)
    if spec.num_axes < -1:
        fail(layer, "bad num_axes", expected=">= -1", got=spec.num_axes)
    end = len(bottom) if spec.num_axes == -1 else start + spec.num_axes
    if end > len(bottom):
        fail(layer, "axis + num_axes is beyond the bottom's axes",
             expected=f"at most {len(bottom)}", got=end)  # fmt: skip
    if dims.count(-1) > 1:
        fail(layer, "more than one -1 in shape", got=dims)
    sizes: list[int | None] = []
    for i, dim in enumerate(dims):
        if dim == 0 and start + i >= len(bottom):
            fail(layer, "a 0 in shape has no axis of the bottom to copy", got=dims)
        sizes.append(bottom[start + i] if dim == 0 else dim)
    if -1 in sizes:
        old = count([*bottom[:start], *bottom[start:end], *bottom[end:]])
        place = sizes.index(-1)
        known = count([*bottom[:start], *sizes[:place], *sizes[place + 1 :], *bottom[end:]])
        if old is not None and known is not None and (known == 0 or old % known):
            fail(layer, "the -1 in shape cannot be inferred", expected=f"a divisor of {old}",
                 got=known)  # fmt: skip
        sizes[place] = None if old is None or known is None else old // known
    top = (*bottom[:start], *sizes, *bottom[end:])
    if count(top) is not None and count(bottom) is not None and count(top) != count(bottom):
        fail(layer, "the number of values changes", expected=f"{count(bottom)} ({show(bottom)})",
             got=f"{count(top)} ({show(top)})")  # fmt: skip
    return LayerShapes([top])


@rule("Tile")
def _tile(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """tile_layer.cpp."""
    (bottom,) = bottoms
    spec = layer.spec.tile_param
    if spec.tiles < 1:
        fail(layer, "tiles is missing or not positive", got=spec.tiles)
    axis = canonical_axis(layer, spec.axis, len(bottom))
    return LayerShapes([at_axis(bottom, axis, count([bottom[axis], spec.tiles]))])


@rule("Reduction")
def _reduction(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """reduction_layer.cpp: the axes from ``axis`` on are reduced to nothing."""
    axis = canonical_axis(layer, layer.spec.reduction_param.axis, len(bottoms[0]))
    return LayerShapes([bottoms[0][:axis]])


@rule("ArgMax")
def _argmax(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """argmax_layer.cpp: over one axis, or over everything but the first.

    The v1 fork goes over the channels and puts indices, then maxima, into the top's.
    """
    (bottom,) = bottoms
    spec = layer.spec.argmax_param
    if is_legacy(layer):
        candidates = bottom[1]
        top = at_axis(bottom, 1, spec.top_k * (2 if spec.out_max_val else 1))
    elif spec.HasField("axis"):
        axis = canonical_axis(layer, spec.axis, len(bottom))
        candidates = bottom[axis]
        top = at_axis(bottom, axis, spec.top_k)
    else:
        candidates = count(bottom[1:])
        top = (bottom[0], 2 if spec.out_max_val else 1, spec.top_k)
        top = (*top, *[1] * (len(bottom) - 3))
    if spec.top_k < 1 or (candidates is not None and spec.top_k > candidates):
        fail(layer, "bad top_k", expected=f"1..{candidates}", got=spec.top_k)
    return LayerShapes([top])


@rule("BatchReindex", bottoms=2)
def _batch_reindex(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """batch_reindex_layer.cpp: bottom 1 lists the items of bottom 0 to take."""
    if len(bottoms[1]) != 1:
        fail(layer, "bottom 1 must have one axis", got=show(bottoms[1]))
    return LayerShapes([(bottoms[1][0], *bottoms[0][1:])])


@rule("Filter", bottoms=(2, None), tops=(1, None))
def _filter(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """filter_layer.cpp: items whose selector, the last bottom, is not 0; how many is data."""
    *data, selector = bottoms
    if len(layer.tops) != len(data):
        fail(layer, "needs a top per bottom but the last", expected=len(data), got=len(layer.tops))
    if any(size not in (1, None) for size in selector[1:]):
        fail(layer, "the selector has more than one value per item", got=show(selector))
    for number, bottom in enumerate(data):
        require_equal(layer, f"batch sizes of selector and bottom {number}", selector[0], bottom[0])
    return LayerShapes([(None, *bottom[1:]) for bottom in data])
