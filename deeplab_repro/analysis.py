"""What a network costs and sees without running it: parameters, multiply-adds, receptive fields."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import prod

from prototxt_import import Net, Shape, ShapedLayer, infer_net
from prototxt_import.matching import shared_parameters
from prototxt_import.shapes import conv_window, interp, pooling

__all__ = ["Field", "LayerCost", "analyse"]

_CONVOLUTIONS = ("Convolution", "Deconvolution", "Im2col")


@dataclass(frozen=True)
class Field:
    """What one value of a blob sees of the first input, along height and width.

    Attributes:
        size: receptive field in pixels.
        stride: input pixels between neighbouring values.
    """

    size: tuple[Fraction, Fraction] = (Fraction(1), Fraction(1))
    stride: tuple[Fraction, Fraction] = (Fraction(1), Fraction(1))

    def through(self, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Field:
        """Behind a window of ``kernel`` (holes included) that moves by ``stride``."""
        size = [f + (k - 1) * s for f, k, s in zip(self.size, kernel, self.stride, strict=True)]
        steps = [s * move for s, move in zip(self.stride, stride, strict=True)]
        return Field((size[0], size[1]), (steps[0], steps[1]))


@dataclass(frozen=True)
class LayerCost:
    """One row of ``inspect``.

    Attributes:
        name: of the layer.
        type: of the layer.
        tops: blob -> shape; None for a size that is not known.
        parameters: values it learns or keeps, those that it shares with an earlier layer left out.
        shared: values it shares with an earlier layer.
        multiply_adds: of a convolution or inner product, padding counted; None if not known.
        kernel: of a window, (h, w).
        stride: of a window.
        rate: dilation of a convolution.
        field: what a value of the first top sees; None where position has no meaning any more.
    """

    name: str
    type: str
    tops: dict[str, Shape]
    parameters: int | None
    shared: int
    multiply_adds: int | None
    kernel: tuple[int, ...] | None = None
    stride: tuple[int, ...] | None = None
    rate: tuple[int, ...] | None = None
    field: Field | None = None


def analyse(net: Net, inputs: dict[str, Shape] | None = None) -> list[LayerCost]:
    """One row a layer, in running order.

    Args:
        net: the network.
        inputs: input sizes in place of the declared ones.
    """
    shapes = infer_net(net, inputs)
    shared = shared_parameters(shapes)
    fields: dict[str, Field | None] = dict.fromkeys(net.inputs, Field())
    rows = []
    for item in shapes.layers:
        layer = item.layer
        field = _field(item, [fields[bottom] for bottom in layer.bottoms])
        fields.update(dict.fromkeys(layer.tops, field))
        kernel = stride = rate = None
        if layer.type in _CONVOLUTIONS:
            window = conv_window(layer, max(1, len(item.bottoms[0]) - 2))
            kernel, stride, rate = window.kernel, window.stride, window.dilation
        elif layer.type == "Pooling":
            pool = pooling(layer)
            kernel, stride = pool.kernel, pool.stride
        counts = [_count(shape) for shape in item.shapes.params]
        borrowed = [(layer.name, i) in shared for i in range(len(counts))]
        own = [count for count, other in zip(counts, borrowed, strict=True) if not other]
        rows.append(
            LayerCost(
                layer.name,
                layer.type,
                dict(zip(layer.tops, item.shapes.tops, strict=True)),
                None if None in own else sum(count or 0 for count in own),
                sum(count or 0 for count, other in zip(counts, borrowed, strict=True) if other),
                _multiply_adds(item),
                kernel,
                stride,
                rate,
                field,
            )
        )
    return rows


def _count(shape: Shape) -> int | None:
    return None if None in shape else prod(size for size in shape if size is not None)


def _multiply_adds(item: ShapedLayer) -> int | None:
    """Products of weights with values; everything else is small beside them."""
    kind = item.layer.type
    if kind not in ("Convolution", "Deconvolution", "InnerProduct"):
        return 0
    weight = _count(item.shapes.params[0])
    # Each weight meets every position of the map that the window moves over once.
    over = item.bottoms[0] if kind == "Deconvolution" else item.shapes.tops[0]
    if kind == "InnerProduct":
        positions = _count(over[: item.layer.spec.inner_product_param.axis])
    else:
        pictures, spatial = _count(over[:1]), _count(over[2:])
        positions = None if pictures is None or spatial is None else pictures * spatial
    return None if weight is None or positions is None else weight * positions


def _field(item: ShapedLayer, below: list[Field | None]) -> Field | None:
    layer = item.layer
    known = [field for field in below if field is not None]
    if not known or len(known) < len(below):
        return None
    field = Field(
        size=(max(f.size[0] for f in known), max(f.size[1] for f in known)),
        stride=(max(f.stride[0] for f in known), max(f.stride[1] for f in known)),
    )
    if layer.type in ("Convolution", "Im2col") and len(item.bottoms[0]) == 4:
        window = conv_window(layer, 2)
        spread = tuple(d * (k - 1) + 1 for k, d in zip(window.kernel, window.dilation, strict=True))
        return field.through(spread, window.stride)
    if layer.type == "Pooling":
        pool = pooling(layer)
        return None if pool.kernel is None else field.through(pool.kernel, pool.stride)
    if layer.type == "Interp":
        return _interpolated(item, field)
    if layer.type in ("InnerProduct", "Flatten", "Reshape", "SPP", "Deconvolution"):
        return None
    return field


def _interpolated(item: ShapedLayer, field: Field) -> Field | None:
    """Bilinear between two neighbours, unless each value falls on a neighbour."""
    how = interp(item.layer)
    crop = how.pad_beg + how.pad_end
    size, stride = [], []
    bottom, top = item.bottoms[0], item.shapes.tops[0]
    pairs = zip(bottom[2:], top[2:], field.size, field.stride, strict=True)
    for before, after, seen, step in pairs:
        if before is None or after is None:
            return None
        ratio = Fraction(before + crop - 1, after - 1) if after > 1 else Fraction(1)
        on_grid = ratio.denominator == 1
        size.append(seen if on_grid else seen + step)
        stride.append(step * ratio)
    return Field((size[0], size[1]), (stride[0], stride[1]))
