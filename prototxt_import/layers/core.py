"""What every layer is: a typed, immutable object that its file's message is read into once.

A kind of layer is a subclass of :class:`Layer`, entered by :func:`kind`.  Its dataclass fields hold
its parameters: a field that is called like one of the kind's message is read from there, whatever
else is needed :meth:`Layer.read` adds.  Whoever runs, draws, counts, compares or exports a network
asks these objects, and nobody reads the messages again.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, NoReturn, TypeVar

from prototxt_import.errors import CaffeImportError
from prototxt_import.layers.field import Field
from prototxt_import.layers.parts import (
    Blob,
    Family,
    Filler,
    Kind,
    LayerShapes,
    Memory,
    Range,
    Role,
    Window,
    field_value,
)
from prototxt_import.layers.sizes import Shape, canonical_axis
from prototxt_import.limits import check_shape
from prototxt_import.schema import Dialect
from prototxt_import.words import show

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:  # for type checkers alone, and not worth a package at run time

    def dataclass_transform(**options: object) -> Callable[[Any], Any]:
        return lambda decorator: decorator


__all__ = ["AUTOMATIC", "KINDS", "Layer", "Phase", "in_capitals", "kind"]

Phase = Literal["TRAIN", "TEST"]
#: What an unnamed top of a loss is called (net.cpp, AppendTop).
AUTOMATIC: Final = "(automatic)"


#: Layer type -> its class.
KINDS: Final[dict[str, type[Layer]]] = {}
_BOTH: Final[tuple[Dialect, ...]] = ("bvlc", "dl2")
_L = TypeVar("_L", bound="type[Layer]")


@dataclass_transform(kw_only_default=True, frozen_default=True, eq_default=False)
def kind(
    type_: str,
    message: str = "",
    *,
    bottoms: int | Range = 1,
    tops: int | Range = 1,
    programs: tuple[Dialect, ...] = _BOTH,
    v1: str | None = None,
) -> Callable[[_L], _L]:
    """Make a class the dataclass of a layer type, and enter it into :data:`KINDS`.

    Args:
        type_: as the current format spells it.
        message: the field of its parameters.
        bottoms: how many it reads: a number, or (least, most) where None means any.
        tops: how many it writes, likewise.
        programs: those of the current format that have it.
        v1: its V1 name, if that is not its words in capitals.
    """

    def enter(cls: _L) -> _L:
        dataclass(frozen=True, kw_only=True, eq=False)(cls)
        cls.kind = Kind(
            type_,
            (bottoms, bottoms) if isinstance(bottoms, int) else bottoms,
            (tops, tops) if isinstance(tops, int) else tops,
            message,
            programs,
            v1 or in_capitals(type_),
        )
        KINDS[type_] = cls
        return cls

    return enter


def in_capitals(name: str) -> str:
    """``SigmoidCrossEntropyLoss`` -> ``SIGMOID_CROSS_ENTROPY_LOSS``."""
    return "".join(f"_{c}" if c.isupper() and i else c for i, c in enumerate(name)).upper()


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer(ABC):
    """One layer in the current form.

    Attributes:
        name: the layer's name.
        type: its type as the current format spells it, such as ``"Convolution"``.
        bottoms: names of the blobs it reads.
        tops: names of the blobs it writes; unnamed tops of losses are called ``"(automatic)"``.
        dialect: the dialect it came from; some layer types compute differently in the forks.
        phase: the phase of its network.
        loss_weights: how much each top counts in the objective: a loss's first top 1 unless told
            (layer.hpp, SetLossWeights, and loss_layer.cpp).
        propagate_down: whether gradients go back to each bottom; empty where the file says nothing.
        has_automatic_top: its one top is unnamed.
        strict_dim: whether weights must have the blobs' shapes, not their sizes alone (v1 fork).
        stated_blobs: what the file states about its first parameter blobs; see :attr:`blobs`.
        spec: the message that all this was read from, without blobs; for showing it, not to read.
    """

    name: str
    type: str
    bottoms: list[str]
    tops: list[str]
    dialect: Dialect
    phase: Phase
    loss_weights: list[float]
    propagate_down: list[bool]
    strict_dim: bool
    has_automatic_top: bool
    stated_blobs: tuple[Blob, ...] = field(repr=False)
    spec: Any = field(repr=False)

    kind: ClassVar[Kind]
    #: What its tops are to the network: blobs of its own making, or inputs, losses, files.
    role: ClassVar[Role] = "layer"
    #: What it is drawn as.
    family: ClassVar[Family] = "other"
    #: Whether a place in its top still stands for a place in the picture.
    keeps_places: ClassVar[bool] = True

    # -------------------------------------------------------------- reading

    @classmethod
    def read(cls, message: Any, spec: Any, dialect: Dialect) -> dict[str, Any]:
        """The kind's own fields.

        Args:
            message: its parameters, whether the file states any or not; None if it has none.
            spec: the whole layer, for the few kinds that read several messages.
            dialect: of the file.

        Returns:
            field -> value.  Here: every field that is called like one of ``message``; enums by
            name, repeated fields as tuples, fillers as :class:`Filler`, and None for a field that
            is not stated if that is the dataclass field's default.
        """
        if message is None:
            return {}
        known = message.DESCRIPTOR.fields_by_name
        return {
            item.name: field_value(message, known[item.name], optional=item.default is None)
            for item in dataclasses.fields(cls)
            if item.name in known and item.name not in _COMMON
        }

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:  # noqa: B027 - most kinds refuse nothing
        """Refuse parameters that Caffe refuses whatever the bottoms are.

        Raises:
            CaffeImportError: naming the layer.
        """

    # -------------------------------------------------------------- what it learns

    def fillers(self) -> tuple[Filler, ...]:
        """Initial values of each parameter blob, in Caffe's order; as many as there are blobs."""
        return ()

    @property
    def blobs(self) -> list[Blob]:
        """Each parameter blob: what the file states about it, and Caffe's defaults.

        Raises:
            CaffeImportError: the file says more than there are blobs, or in the v1 fork less.
        """
        fillers, stated = self.fillers(), self.stated_blobs
        if len(stated) > len(fillers):
            raise CaffeImportError(
                "has more param entries than parameters",
                layer=self.name,
                expected=f"at most {len(fillers)}",
                got=len(stated),
            )
        if self.is_legacy and stated and len(stated) < len(fillers):
            # net.cpp of 2014: "should be either 0 or the same as the number of ... blobs".
            raise CaffeImportError(
                "blobs_lr, weight_decay and param of the v1 fork are for all blobs or none",
                layer=self.name,
                expected=f"0 or {len(fillers)}",
                got=len(stated),
            )
        padded = (*stated, *[Blob()] * (len(fillers) - len(stated)))
        return [
            dataclasses.replace(blob, filler=filler)
            for blob, filler in zip(padded, fillers, strict=True)
        ]

    # -------------------------------------------------------------- shapes

    def shapes(self, bottoms: Sequence[Shape]) -> LayerShapes:
        """The shapes of its tops and parameters, given those of its bottoms.

        A size may be None where it is not known; what does not depend on it is known all the same.

        Raises:
            CaffeImportError: where Caffe would refuse the layer, or could not run it.
        """
        self._check_number("bottoms", len(bottoms), self.kind.bottoms)
        self._check_number("tops", len(self.tops), self.kind.tops)
        shapes = self.infer([tuple(shape) for shape in bottoms])
        for what, found in (("top", shapes.tops), ("parameter", shapes.params)):
            for i, shape in enumerate(found):
                check_shape(shape, f"{self.type}: {what} {i}", layer=self.name)
        return shapes

    @abstractmethod
    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """The kind's own shape rule, for a number of bottoms that is right."""

    def _check_number(self, what: str, got: int, limits: Range) -> None:
        least, most = limits
        if got < least or (most is not None and got > most):
            expected = str(least) if least == most else f"{least} to {most}"
            self.fail(
                f"wrong number of {what}",
                expected=f"{least} or more" if most is None else expected,
                got=got,
            )

    # -------------------------------------------------------------- what others ask

    @property
    def memory(self) -> Memory:
        """Where its tops lie, as this project computes it."""
        return Memory.FRESH

    @property
    def shares_data(self) -> bool:
        """Whether in Caffe each top is the memory of bottom 0 (Blob::ShareData).

        A later layer that works in place on the one then changes the other.
        """
        return False

    def is_in_place(self, top: int) -> bool:
        """Whether top number ``top`` overwrites the bottom of that number (net.cpp, AppendTop)."""
        return self.bottoms[top : top + 1] == self.tops[top : top + 1] != []

    def window(self, bottom: Shape) -> Window | None:
        """The window that it slides over a bottom of that shape; None if it slides none."""
        return None

    def padded(self, bottom: Shape) -> Shape | None:
        """The shape of the copy with zeros around it that running it may need; None for no copy."""
        return None

    def multiply_adds(self, bottoms: list[Shape], shapes: LayerShapes) -> int | None:
        """Products of weights with values, padding counted; None where a size is not known.

        Everything else that a network computes is small beside them.
        """
        return 0

    def useful_multiply_adds(self, bottoms: list[Shape], shapes: LayerShapes) -> int | None:
        """As :meth:`multiply_adds`, without the products with padding."""
        return self.multiply_adds(bottoms, shapes)

    def receptive_field(self, below: Field, bottom: Shape, top: Shape) -> Field | None:
        """What a value of a top sees, given what a value of the bottoms sees.

        None where a value has no place in the picture any more.
        """
        return below if self.keeps_places else None

    def describe(self) -> str:
        """The type with what matters most: ``Convolution 3x3 rate 12, 1024``."""
        return self.type

    @property
    def is_legacy(self) -> bool:
        """Whether it is of the v1 fork, where every blob has four axes (blob.hpp of 2014)."""
        return self.dialect == "dl1"

    # -------------------------------------------------------------- help for the kinds

    def fail(
        self, message: str, *, expected: object | None = None, got: object | None = None
    ) -> NoReturn:
        """Refuse the layer, naming it and its type."""
        raise CaffeImportError(
            f"{self.type}: {message}", layer=self.name, expected=expected, got=got
        )

    def axis_of(self, axis: int, axes: int, what: str = "axis") -> int:
        """``axis`` counted from the front (blob.hpp, CanonicalAxisIndex); -1 is the last."""
        found = canonical_axis(axis, axes)
        if found is None:
            self.fail(f"bad {what}", expected=f"{-axes}..{axes - 1}", got=axis)
        return found

    def four_axes(self, shape: Shape) -> tuple[int | None, int | None, int | None, int | None]:
        """``shape`` as num, channels, height, width, absent axes being 1 (LegacyShape)."""
        if len(shape) > 4:
            self.fail("bottom has too many axes", expected="at most 4", got=show(shape))
        num, channels, height, width = (*shape, 1, 1, 1, 1)[:4]
        return num, channels, height, width

    def exactly_four_axes(self, shape: Shape) -> Shape:
        """``shape``, which must be num x channels x height x width."""
        if len(shape) != 4:
            self.fail("bottom must be num x channels x height x width", got=show(shape))
        return shape

    def scalar_shape(self) -> Shape:
        """The shape of a single number: no axes, or 1x1x1x1 in the v1 fork."""
        return (1, 1, 1, 1) if self.is_legacy else ()

    def refuse_in_place(self) -> None:
        """Refuse a top of the bottom's name, where Caffe does (``CHECK_NE(top[0], bottom[0])``)."""
        if self.is_in_place(0):
            self.fail("cannot work in place", expected="a top of another name than the bottom")

    def require_equal(self, what: str, first: int | None, second: int | None) -> None:
        """Refuse the layer if both sizes are known and differ."""
        if first is not None and second is not None and first != second:
            self.fail(f"{what} differ", expected=first, got=second)

    def same_shape(self, shapes: Sequence[Shape]) -> Shape:
        """The one shape that all of ``shapes`` are, unknown sizes filled in from one another."""
        merged = list(shapes[0])
        for number, shape in enumerate(shapes[1:], start=1):
            if len(shape) != len(merged) or any(
                a is not None and b is not None and a != b
                for a, b in zip(merged, shape, strict=True)
            ):
                self.fail(
                    f"bottom {number} is not shaped like bottom 0",
                    expected=show(shapes[0]),
                    got=show(shape),
                )
            merged = [b if a is None else a for a, b in zip(merged, shape, strict=True)]
        return tuple(merged)

    def something_left(self, what: str, sizes: Shape, bottom: Shape) -> Shape:
        """``sizes``, none of which may be less than 1."""
        if any(size is not None and size < 1 for size in sizes):
            self.fail(
                f"{what} leaves nothing of the bottom",
                expected="sizes of at least 1",
                got=f"{show(sizes)} from {show(bottom)}",
            )
        return sizes

    def __copy__(self) -> Layer:
        return self

    def __deepcopy__(self, memo: object) -> Layer:
        return self  # immutable


_COMMON: Final = frozenset(item.name for item in dataclasses.fields(Layer))
