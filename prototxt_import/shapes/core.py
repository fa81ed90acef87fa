"""What every shape rule stands on: the table of rules, axes, counts and the way to refuse.

Sizes that nobody knows yet are ``None`` and stay ``None`` through all arithmetic, so that a
network without its input size still tells the shapes of its parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

from prototxt_import.errors import CaffeImportError

if TYPE_CHECKING:
    from prototxt_import.net import Layer, Shape

__all__ = [
    "RULES",
    "LayerShapes",
    "Rule",
    "at_axis",
    "canonical_axis",
    "count",
    "enum_name",
    "fail",
    "is_legacy",
    "legacy",
    "loss_shape",
    "require_equal",
    "rule",
    "same_shape",
    "scalar_shape",
    "show",
]


@dataclass(frozen=True)
class LayerShapes:
    """Shapes of what one layer makes and of what it learns, in Caffe's order.

    Attributes:
        tops: one shape per top.  A loss whose file names no top has one all the same, as Caffe
            makes one for it (``AutoTopBlobs`` in net.cpp).
        params: one shape per parameter blob.
    """

    tops: list[Shape]
    params: list[Shape] = field(default_factory=list)


Rule = Callable[["Layer", "list[Shape]"], LayerShapes]


@dataclass(frozen=True)
class _Entry:
    apply: Rule
    bottoms: tuple[int, int | None]
    tops: tuple[int, int | None]
    automatic_top: bool


#: Layer type -> its rule and how many bottoms and tops Caffe lets it have.
RULES: Final[dict[str, _Entry]] = {}


def rule(
    *types: str,
    bottoms: int | tuple[int, int | None] = 1,
    tops: int | tuple[int, int | None] = 1,
    automatic_top: bool = False,
) -> Callable[[Rule], Rule]:
    """Register the shape rule of ``types``.

    Args:
        types: layer types as the current format spells them.
        bottoms: how many it reads: a number, or (least, most) where None means any.
        tops: how many it writes, likewise.
        automatic_top: Caffe makes the top when the file names none.
    """

    def register(function: Rule) -> Rule:
        for name in types:
            RULES[name] = _Entry(
                function,
                (bottoms, bottoms) if isinstance(bottoms, int) else bottoms,
                (tops, tops) if isinstance(tops, int) else tops,
                automatic_top,
            )
        return function

    return register


def fail(
    layer: Layer, message: str, *, expected: object | None = None, got: object | None = None
) -> NoReturn:
    """Refuse ``layer``, naming it and its type."""
    raise CaffeImportError(f"{layer.type}: {message}", layer=layer.name, expected=expected, got=got)


def show(shape: Sequence[int | None]) -> str:
    """A shape for people: ``2x?x9x11``, or ``scalar``."""
    return "x".join("?" if size is None else str(size) for size in shape) or "scalar"


def is_legacy(layer: Layer) -> bool:
    """Whether the layer is of the v1 fork, where every blob has four axes (blob.hpp of 2014)."""
    return layer.dialect == "dl1"


def scalar_shape(layer: Layer) -> Shape:
    """The shape of a single number: no axes, or 1x1x1x1 in the v1 fork."""
    return (1, 1, 1, 1) if is_legacy(layer) else ()


def loss_shape(layer: Layer, bottoms: Sequence[Shape]) -> Shape:
    """The shape of a loss (loss_layer.cpp): a single number, once batch sizes agree."""
    first, second = (shape[0] if shape else None for shape in bottoms[:2])
    require_equal(layer, "batch sizes of bottoms 0 and 1", first, second)
    return scalar_shape(layer)


def canonical_axis(layer: Layer, axis: int, axes: int, *, what: str = "axis") -> int:
    """``axis`` counted from the front (blob.hpp, CanonicalAxisIndex); -1 is the last."""
    if not -axes <= axis < axes:
        fail(layer, f"bad {what}", expected=f"{-axes}..{axes - 1}", got=axis)
    return axis % axes


def count(sizes: Sequence[int | None]) -> int | None:
    """The product of ``sizes``; None if any is unknown, 1 if there are none."""
    product = 1
    for size in sizes:
        if size is None:
            return None
        product *= size
    return product


def legacy(layer: Layer, shape: Shape) -> tuple[int | None, int | None, int | None, int | None]:
    """``shape`` as num, channels, height, width, absent axes being 1 (blob.hpp, LegacyShape)."""
    if len(shape) > 4:
        fail(layer, "bottom has too many axes", expected="at most 4", got=show(shape))
    num, channels, height, width = (*shape, 1, 1, 1, 1)[:4]
    return num, channels, height, width


def at_axis(shape: Shape, axis: int, size: int | None) -> Shape:
    """``shape`` with ``size`` at ``axis``."""
    return (*shape[:axis], size, *shape[axis + 1 :])


def require_equal(layer: Layer, what: str, first: int | None, second: int | None) -> None:
    """Refuse the layer if both sizes are known and differ."""
    if first is not None and second is not None and first != second:
        fail(layer, f"{what} differ", expected=first, got=second)


def same_shape(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    """The one shape that all of ``shapes`` are, unknown sizes filled in from one another."""
    merged = list(shapes[0])
    for number, shape in enumerate(shapes[1:], start=1):
        if len(shape) != len(merged) or any(
            a is not None and b is not None and a != b for a, b in zip(merged, shape, strict=True)
        ):
            fail(
                layer,
                f"bottom {number} is not shaped like bottom 0",
                expected=show(shapes[0]),
                got=show(shape),
            )
        merged = [b if a is None else a for a, b in zip(merged, shape, strict=True)]
    return tuple(merged)


def enum_name(message: Any, name: str) -> str:
    """The name of the value of enum field ``name``, such as ``"MAX"``."""
    values = message.DESCRIPTOR.fields_by_name[name].enum_type.values_by_number
    return cast(str, values[getattr(message, name)].name)
