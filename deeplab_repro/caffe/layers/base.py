"""What every Caffe layer has in common: its blobs, its shapes, the registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Final, NoReturn

import torch
from torch import Tensor, nn

from deeplab_repro.caffe.layers.fillers import fill
from deeplab_repro.caffe.quirks import Quirks
from prototxt_import import (
    CaffeImportError,
    DialectReport,
    Layer,
    LayerShapes,
    Shape,
    ShapedLayer,
)
from prototxt_import.layers import Filler
from prototxt_import.words import show

__all__ = [
    "LAYERS",
    "CaffeLayer",
    "UnexpectedLabel",
    "build",
    "label_numbers",
    "register",
    "straight_through",
    "whole_labels",
]


class UnexpectedLabel(ValueError):
    """A label that is neither a class nor ignored.

    Args:
        where: the layer or the loss.
        label: the value.
        expected: what would have been right.
    """

    def __init__(self, where: str, label: int, expected: str) -> None:
        self.label = label
        super().__init__(f"{where}: unexpected label {label}; expected {expected}")


class CaffeLayer(nn.Module):
    """One layer of a Caffe network.

    Its blobs are registered under the names "0", "1", ... in Caffe's order and shapes, zero until
    :meth:`initialise` fills them.  A blob whose shape depends on sizes that are not known yet is
    missing until :meth:`set_blob` brings it.

    Args:
        layer: the layer as the file describes it.
        bottoms: shapes of its bottoms, None where a size is not known.
        shapes: those of its tops and blobs, see :meth:`prototxt_import.Layer.shapes`.
        quirks: which faults of the original programs are computed.

    Attributes:
        can_run_inplace: ``forward(x, inplace=True)`` may overwrite ``x``; whether nobody else
            needs ``x`` any more is for the caller to know.
    """

    layer: Layer
    can_run_inplace: ClassVar[bool] = False
    #: Whether the blobs are statistics, not learned by gradients.
    blobs_are_buffers: ClassVar[bool] = False

    def __init__(
        self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes, quirks: Quirks
    ) -> None:
        super().__init__()
        self.layer = layer
        self.quirks = quirks
        self.blob_shapes = list(shapes.params)
        #: Blobs to which this layer sends no gradient, although another that shares them does.
        self.cut_blobs: frozenset[int] = frozenset()
        #: Blobs that ask for no gradient from the start (``lr_mult: 0``).
        self.frozen_blobs: frozenset[int] = frozenset()
        #: Blobs have four axes each, and so do losses: the DeepLab v1 fork of 2014.
        self.is_legacy = layer.dialect == "dl1"
        self.num_tops = len(shapes.tops)
        for i, shape in enumerate(self.blob_shapes):
            known = [size for size in shape if size is not None]
            # An empty place keeps the order of parameters, which optimisers number.
            self._register(i, torch.zeros(known) if len(known) == len(shape) else None)

    @property
    def learns_inplace(self) -> bool:
        """Whether the backward pass of the in-place form needs its top alone."""
        return False

    @property
    def forgets_top(self) -> bool:
        """Whether the backward pass never reads the top, which then may be overwritten."""
        return False

    def initialise(self) -> None:
        """Fill the blobs as the layer's fillers say."""
        with torch.no_grad():
            for i, filler in enumerate(self.layer.fillers()):
                if self.has_blob(i):
                    self.fill(self.registered(i), filler)

    def fill(self, value: Tensor, filler: Filler) -> Tensor:
        """Fill ``value`` in place; an error of the filler's names this layer."""
        try:
            return fill(value, filler, is_legacy=self.is_legacy)
        except CaffeImportError as error:
            self.refuse(error.message, expected=error.expected, got=error.got)

    @property
    def blobs(self) -> list[Tensor]:
        """Parameters and buffers in Caffe's order, each in this layer's own shape."""
        return [self._shaped(i) for i in range(len(self.blob_shapes))]

    def has_blob(self, i: int) -> bool:
        """Whether blob ``i`` has a value yet: its shape may wait for the weights."""
        return self._registered(i) is not None

    def blob(self, i: int) -> Tensor:
        """Blob ``i`` in this layer's own shape.

        It differs from the registered one where layers of different shapes share a parameter
        (``share_mode: PERMISSIVE`` asks for equal counts only).
        """
        value = self._shaped(i)
        return value.detach() if i in self.cut_blobs else value

    def _shaped(self, i: int) -> Tensor:
        value = self.registered(i)
        shape = tuple(self.blob_shapes[i])
        return value if value.shape == shape else value.view(*[n for n in shape if n is not None])

    def set_blob(self, i: int, value: Tensor) -> None:
        """Give blob ``i`` a value from a file.

        Leading axes of size 1 may be missing or extra, as between files of old and new programs
        (blob.cpp, ShapeEquals).  What is registered already is overwritten, not replaced.
        """
        if i >= len(self.blob_shapes):
            self.refuse("has no such parameter", expected=f"{len(self.blob_shapes)}", got=i + 1)
        shape = self._matched(i, tuple(value.shape))
        if shape is None:
            self.refuse(
                f"parameter {i} has another shape",
                expected=show(self.blob_shapes[i]),
                got=show(value.shape),
            )
        value = value.reshape(shape)
        if self.has_blob(i):
            with torch.no_grad():
                self.registered(i).copy_(value)
        else:
            self.blob_shapes[i] = shape
            self._register(i, value.detach().clone())

    def freeze(self, numbers: Iterable[int]) -> None:
        """Let blobs ask for no gradient, those that have no value yet too."""
        self.frozen_blobs = frozenset(numbers)
        for i in self.frozen_blobs:
            if self.has_blob(i) and not self.blobs_are_buffers:
                self.registered(i).requires_grad_(False)

    def share_blob(self, i: int, value: Tensor) -> None:
        """Make ``value``, another layer's, this layer's blob ``i``."""
        if None in self.blob_shapes[i]:
            self.blob_shapes[i] = tuple(value.shape)
        self._register(i, value)

    def refuse(self, message: str, **details: Any) -> NoReturn:
        """Raise the error that names this layer."""
        self.layer.fail(message, **details)

    def extra_repr(self) -> str:
        """The layer's name."""
        return self.layer.name

    def _register(self, i: int, value: Tensor | None) -> None:
        if self.blobs_are_buffers:
            self.register_buffer(str(i), value)
        elif value is None or isinstance(value, nn.Parameter):
            self.register_parameter(str(i), value)
        else:
            self.register_parameter(str(i), nn.Parameter(value, i not in self.frozen_blobs))

    def registered(self, i: int) -> Tensor:
        """Blob ``i`` as the tensor that gradients land on, in the shape of its first layer."""
        value = self._registered(i)
        if value is None:
            self.refuse(f"parameter {i} is missing: its shape is not known before its weights are")
        return value

    def _registered(self, i: int) -> Tensor | None:
        return (self._buffers if self.blobs_are_buffers else self._parameters).get(str(i))

    def _matched(self, i: int, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """``shape`` with as many axes as blob ``i`` has, if it can be that blob's."""
        wanted = self.blob_shapes[i]
        extra = len(shape) - len(wanted)
        if extra > 0 and all(n == 1 for n in shape[:extra]):
            shape = shape[extra:]
        elif extra < 0:
            shape = (1,) * -extra + shape
        fits = len(shape) == len(wanted) and all(
            a is None or a == b for a, b in zip(wanted, shape, strict=True)
        )
        return shape if fits else None


#: Layer type -> its module class.
LAYERS: Final[dict[str, type[CaffeLayer]]] = {}


def register(*types: str) -> Callable[[type[CaffeLayer]], type[CaffeLayer]]:
    """Enter a class into :data:`LAYERS` under ``types``."""

    def enter(cls: type[CaffeLayer]) -> type[CaffeLayer]:
        for name in types:
            LAYERS[name] = cls
        return cls

    return enter


def build(item: ShapedLayer, quirks: Quirks | None = None) -> CaffeLayer:
    """The module of a layer, given the shapes around it; its blobs are zero.

    Args:
        item: the layer.
        quirks: which faults are computed; None goes by the layer's own dialect.

    Raises:
        CaffeImportError: a type that is left out.
    """
    layer = item.layer
    if quirks is None:
        quirks = Quirks(DialectReport(layer.dialect))
    return LAYERS[layer.type](layer, item.bottoms, item.shapes, quirks)


class _StraightThrough(torch.autograd.Function):
    """See :func:`straight_through`."""

    @staticmethod
    def forward(x: Tensor, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None


def straight_through(x: Tensor, values: Tensor) -> Tensor:
    """``values``, through which gradients pass to ``x`` as if nothing had been computed.

    Args:
        x: any shape.
        values: of that shape.
    """
    y: Tensor = _StraightThrough.apply(x, values.detach())
    return y


def label_numbers(
    module: CaffeLayer, labels: Tensor, classes: int, ignore: Sequence[int] = ()
) -> tuple[Tensor, Tensor]:
    """:func:`whole_labels` of a layer, which an error names."""
    where = f"layer '{module.layer.name}': {module.layer.type}"
    return whole_labels(labels, classes, ignore, where)


def whole_labels(
    labels: Tensor, classes: int, ignore: Sequence[int], where: str
) -> tuple[Tensor, Tensor]:
    """Labels as Caffe reads them from floats: cut to whole numbers.

    Args:
        labels: any shape.
        classes: labels must lie in [0, classes).
        ignore: labels that do not count, in or out of that range.
        where: for the message.

    Returns:
        labels as int64 with 0 in place of ignored ones, and which of them count (bool).

    Raises:
        UnexpectedLabel: one that is neither a class nor ignored.  Compiled graphs do not look.
    """
    numbers = labels.detach().long()
    counts = torch.ones_like(numbers, dtype=torch.bool)
    for value in ignore:
        counts &= numbers != value
    numbers = numbers.masked_fill(~counts, 0)
    if not torch.compiler.is_compiling():
        bad = (numbers < 0) | (numbers >= classes)
        if bool(bad.any()):
            ignored = f" or ignored {sorted(ignore)}" if ignore else ""
            raise UnexpectedLabel(where, int(numbers[bad][0]), f"0..{classes - 1}{ignored}")
    return numbers, counts
