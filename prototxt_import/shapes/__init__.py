"""Blob shapes of every layer, without running anything.

>>> from prototxt_import import parse_net
>>> net = parse_net('''
... input: "data" input_shape { dim: 1 dim: 3 dim: 321 dim: 321 }
... layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
...         convolution_param { num_output: 64 kernel_size: 3 pad: 2 dilation: 2 } }''')
>>> infer(net["conv"], [(1, 3, 321, 321)])
LayerShapes(tops=[(1, 64, 321, 321)], params=[(64, 3, 3, 3), (64,)])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prototxt_import.limits import check_shape

# Imported for the rules that they register.
from prototxt_import.shapes import losses, plain, sources, vision  # noqa: F401
from prototxt_import.shapes.core import RULES, LayerShapes, canonical_axis, count, enum_name, fail
from prototxt_import.shapes.geometry import (
    Interp,
    Pool,
    Window,
    conv_output,
    conv_window,
    deconv_output,
    interp,
    interp_output,
    pool_output,
    pooling,
    spp_pool,
)
from prototxt_import.shapes.refused import REFUSED

if TYPE_CHECKING:
    from prototxt_import.net import Layer, Shape

__all__ = [
    "REFUSED",
    "RULES",
    "Interp",
    "LayerShapes",
    "Pool",
    "Window",
    "canonical_axis",
    "check_type",
    "conv_output",
    "conv_window",
    "count",
    "deconv_output",
    "enum_name",
    "infer",
    "interp",
    "interp_output",
    "pool_output",
    "pooling",
    "spp_pool",
]


def check_type(layer: Layer) -> None:
    """Refuse layers of types that are left out or unknown.

    Raises:
        CaffeImportError: naming the layer, its type and the reason.
    """
    if layer.type in REFUSED:
        fail(layer, f"layer type not supported: {REFUSED[layer.type]}")
    if layer.type not in RULES:
        fail(layer, "unknown layer type")


def infer(layer: Layer, bottoms: Sequence[Shape]) -> LayerShapes:
    """The shapes of a layer's tops and parameters, given those of its bottoms.

    A size may be None where it is not known; what does not depend on it is known all the same.

    Raises:
        CaffeImportError: where Caffe would refuse the layer, or could not run it.
    """
    check_type(layer)
    entry = RULES[layer.type]
    tops = len(layer.tops)
    _check_number(layer, "bottoms", len(bottoms), entry.bottoms)
    _check_number(layer, "tops", max(1, tops) if entry.automatic_top else tops, entry.tops)
    shapes = entry.apply(layer, [tuple(shape) for shape in bottoms])
    for what, found in (("top", shapes.tops), ("parameter", shapes.params)):
        for i, shape in enumerate(found):
            check_shape(shape, f"{layer.type}: {what} {i}", layer=layer.name)
    return shapes


def _check_number(layer: Layer, what: str, got: int, limits: tuple[int, int | None]) -> None:
    least, most = limits
    if got < least or (most is not None and got > most):
        expected = str(least) if least == most else f"{least} to {most}"
        fail(
            layer,
            f"wrong number of {what}",
            expected=f"{least} or more" if most is None else expected,
            got=got,
        )
