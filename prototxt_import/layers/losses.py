"""Losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from prototxt_import.layers.core import Layer, kind
from prototxt_import.layers.parts import Family, LayerShapes, Role, enum_name
from prototxt_import.layers.sizes import Shape, count
from prototxt_import.schema import Dialect

__all__ = [
    "ContrastiveLoss", "EuclideanLoss", "HingeLoss", "InfogainLoss", "Loss",
    "MultinomialLogisticLoss", "SigmoidCrossEntropyLoss", "SoftmaxWithLoss", "labels_match",
    "one_label_an_item",
]  # fmt: skip


def labels_match(layer: Layer, bottoms: list[Shape], axis: int) -> None:
    """One label per place outside ``axis`` (softmax_loss_layer.cpp, accuracy_layer.cpp)."""
    scores, labels = bottoms[:2]
    places = count([*scores[:axis], *scores[axis + 1 :]])
    layer.require_equal("numbers of predictions and labels", places, count(labels))


def one_label_an_item(layer: Layer, bottoms: list[Shape]) -> None:
    """(N, 1, 1, 1) labels."""
    sizes = layer.four_axes(bottoms[1])[1:]
    for what, size in zip(("channels", "height", "width"), sizes, strict=True):
        layer.require_equal(f"the labels' {what} and 1", 1, size)


@dataclass(frozen=True, kw_only=True, eq=False)
class Loss(Layer):
    """A layer whose first top counts in the objective (loss_layer.cpp).

    Attributes:
        ignore: labels that do not count.
        normalization: what the sum is divided by: ``"FULL"``, ``"VALID"``, ``"BATCH_SIZE"`` or
            ``"NONE"``.
    """

    role: ClassVar[Role] = "loss"
    family: ClassVar[Family] = "loss"
    keeps_places: ClassVar[bool] = False
    ignore: tuple[int, ...]
    normalization: str

    @classmethod
    def read(cls, message: Any, spec: Any, dialect: Dialect) -> dict[str, Any]:
        """``loss_param``, which losses of all kinds have."""
        loss = spec.loss_param
        ignore = (loss.ignore_label,) if loss.HasField("ignore_label") else ()
        return {
            **super().read(message, spec, dialect),
            "ignore": ignore,
            "normalization": enum_name(loss, "normalization"),
        }

    def loss_shape(self, bottoms: list[Shape]) -> Shape:
        """A single number, once batch sizes agree."""
        first, second = (shape[0] if shape else None for shape in bottoms[:2])
        self.require_equal("batch sizes of bottoms 0 and 1", first, second)
        return self.scalar_shape()


@kind("SoftmaxWithLoss", "softmax_param", bottoms=2, tops=(1, 2), v1="SOFTMAX_LOSS")
class SoftmaxWithLoss(Loss):
    """softmax_loss_layer.cpp; a second top holds the probabilities.

    Attributes:
        weight_source: file with a weight for each class (v1 fork).
    """

    axis: int
    weight_source: str | None = None

    @classmethod
    def read(cls, message: Any, spec: Any, dialect: Dialect) -> dict[str, Any]:
        """``normalize`` is the older way to ask; the v1 fork has a message of its own."""
        values = super().read(message, spec, dialect)
        loss = spec.loss_param
        if loss.HasField("normalize") and not loss.HasField("normalization"):
            values["normalization"] = "VALID" if loss.normalize else "BATCH_SIZE"
        if dialect == "dl1":
            own = spec.softmaxloss_param
            values["ignore"] = tuple(sorted(set(own.ignore_label)))
            values["weight_source"] = own.weight_source if own.HasField("weight_source") else None
        return values

    def check(self) -> None:
        """The v1 fork's has one top."""
        if self.is_legacy and len(self.tops) > 1:
            self.fail("too many tops", expected=1, got=len(self.tops))

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """Scores of any shape, labels for every place outside the axis."""
        scores = bottoms[0]
        axis = self.axis_of(self.axis, len(scores))
        loss = self.loss_shape(bottoms)
        labels_match(self, bottoms, axis)
        return LayerShapes([loss, scores][: len(self.tops)])


@kind("InfogainLoss", "infogain_loss_param", bottoms=(2, 3), tops=(1, 2))
class InfogainLoss(Loss):
    """infogain_loss_layer.cpp: over an axis of scores; in the forks, over whole items.

    Attributes:
        source: BlobProto file of the matrix, where it is not the third bottom.
        states_normalize: whether the file asks for a normalization in the older way.
    """

    axis: int
    source: str | None = None
    states_normalize: bool

    @classmethod
    def read(cls, message: Any, spec: Any, dialect: Dialect) -> dict[str, Any]:
        """``normalize`` is refused by :meth:`check`."""
        values = super().read(message, spec, dialect)
        return {**values, "states_normalize": spec.loss_param.HasField("normalize")}

    @property
    def takes_scores(self) -> bool:
        """Whether it applies softmax itself, and knows labels to ignore."""
        return self.dialect == "bvlc"

    def check(self) -> None:
        """infogain_loss_layer.cpp, LayerSetUp."""
        if len(self.bottoms) == 2 and self.source is None:
            self.fail("no infogain matrix", expected="a third bottom or infogain_loss_param.source")
        if self.takes_scores and self.states_normalize:
            self.fail("loss_param.normalize is not read here", expected="normalization")
        if not self.takes_scores and len(self.tops) > 1:
            self.fail("too many tops", expected=1, got=len(self.tops))

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """Scores or probabilities, labels, and perhaps the matrix."""
        scores = bottoms[0]
        loss = self.loss_shape(bottoms)
        if self.takes_scores:
            axis = self.axis_of(self.axis, len(scores))
            labels_match(self, bottoms, axis)
            labels = scores[axis]
        else:
            one_label_an_item(self, bottoms)
            labels = count(scores[1:])
        if len(bottoms) == 3:
            square = None if labels is None else labels * labels
            self.require_equal(
                "numbers of values of the infogain matrix", square, count(bottoms[2])
            )
        return LayerShapes([loss, scores][: len(self.tops)])


class _LabelLoss(Loss):
    """One label an item."""

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """(N, ...) and N labels."""
        loss = self.loss_shape(bottoms)
        one_label_an_item(self, bottoms)
        return LayerShapes([loss])


@kind("MultinomialLogisticLoss", bottoms=2)
class MultinomialLogisticLoss(_LabelLoss):
    """multinomial_logistic_loss_layer.cpp: -log p of the label, from probabilities."""


@kind("HingeLoss", "hinge_loss_param", bottoms=2)
class HingeLoss(_LabelLoss):
    """hinge_loss_layer.cpp; the norm is ``"L1"`` or ``"L2"``."""

    norm: str


class _TargetLoss(Loss):
    """A target for every value."""

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """Two of the same number of values."""
        loss = self.loss_shape(bottoms)
        self.require_equal("numbers of values of the bottoms", *map(count, bottoms))
        return LayerShapes([loss])


@kind("EuclideanLoss", "euclidean_loss_param", bottoms=2)
class EuclideanLoss(_TargetLoss):
    """euclidean_loss_layer.cpp; the v1 fork knows the root of the mean (``type: L2sqrt``)."""

    is_root: bool

    @classmethod
    def read(cls, message: Any, spec: Any, dialect: Dialect) -> dict[str, Any]:
        """Only the v1 fork reads the type."""
        is_root = dialect == "dl1" and enum_name(message, "type") == "L2sqrt"
        return {**super().read(message, spec, dialect), "is_root": is_root}


@kind("SigmoidCrossEntropyLoss", bottoms=2)
class SigmoidCrossEntropyLoss(_TargetLoss):
    """sigmoid_cross_entropy_loss_layer.cpp.

    Divided by the batch unless ``loss_param`` says otherwise; the DeepLab forks read neither that
    nor a label to ignore.
    """

    @classmethod
    def read(cls, message: Any, spec: Any, dialect: Dialect) -> dict[str, Any]:
        """BVLC's alone reads loss_param."""
        values = super().read(message, spec, dialect)
        if dialect != "bvlc":
            return {**values, "ignore": (), "normalization": "BATCH_SIZE"}
        loss = spec.loss_param
        if not loss.HasField("normalization"):
            valid = loss.HasField("normalize") and loss.normalize
            values["normalization"] = "VALID" if valid else "BATCH_SIZE"
        return values


@kind("ContrastiveLoss", "contrastive_loss_param", bottoms=3)
class ContrastiveLoss(Loss):
    """contrastive_loss_layer.cpp: pairs of N x C vectors and whether they belong together."""

    margin: float
    legacy_version: bool

    @property
    def squared_margin(self) -> bool:
        """Whether the margin is one of squared distances."""
        return self.is_legacy or self.legacy_version

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """(N, C) twice, and N flags."""
        loss = self.loss_shape(bottoms)
        first, second, similar = (self.four_axes(shape) for shape in bottoms)
        self.require_equal("channels of the pairs", first[1], second[1])
        self.require_equal("batch sizes of bottoms 0 and 2", first[0], similar[0])
        for number, sizes in ((0, first[2:]), (1, second[2:]), (2, similar[1:])):
            for size in sizes:
                self.require_equal(f"further sizes of bottom {number} and 1", 1, size)
        return LayerShapes([loss])
