"""Accuracy and SegAccuracy: measures without gradients."""

from __future__ import annotations

from typing import Any, ClassVar

from prototxt_import.layers.core import Layer, kind
from prototxt_import.layers.losses import labels_match, one_label_an_item
from prototxt_import.layers.parts import LayerShapes
from prototxt_import.layers.sizes import Shape, count
from prototxt_import.schema import Dialect

__all__ = ["Accuracy", "SegAccuracy"]


@kind("Accuracy", "accuracy_param", bottoms=2, tops=(1, 2))
class Accuracy(Layer):
    """accuracy_layer.cpp; a second top holds the accuracy of every class."""

    keeps_places: ClassVar[bool] = False
    axis: int
    top_k: int
    ignore_label: int | None = None

    @property
    def ignore(self) -> tuple[int, ...]:
        """Labels that do not count; the v1 fork knows none."""
        return () if self.ignore_label is None or self.is_legacy else (self.ignore_label,)

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """Scores of any shape, labels for every place outside the axis."""
        scores = bottoms[0]
        if self.is_legacy:
            self.require_equal("batch sizes of bottoms 0 and 1", scores[0], bottoms[1][0])
            one_label_an_item(self, bottoms)
            classes = count(scores[1:])
            if len(self.tops) > 1:
                self.fail("too many tops", expected=1, got=len(self.tops))
        else:
            axis = self.axis_of(self.axis, len(scores))
            labels_match(self, bottoms, axis)
            classes = scores[axis]
        labels = count(bottoms[1])
        if self.top_k < 1 or (classes is not None and labels is not None and self.top_k > classes):
            self.fail("bad top_k", expected=f"1..{classes}", got=self.top_k)
        return LayerShapes([self.scalar_shape(), (classes,)][: max(1, len(self.tops))])


@kind("SegAccuracy", "seg_accuracy_param", bottoms=2, programs=("dl2",))
class SegAccuracy(Layer):
    """seg_accuracy_layer.cpp: pixel accuracy, mean recall, mean intersection over union.

    Attributes:
        ignore: labels that do not count.
        reset: every pass starts anew, as always in the v1 fork.
    """

    keeps_places: ClassVar[bool] = False
    ignore: tuple[int, ...]
    reset: bool

    @classmethod
    def read(cls, message: Any, spec: Any, dialect: Dialect) -> dict[str, Any]:
        """``ignore_label`` may stand several times."""
        return {
            "ignore": tuple(sorted(set(message.ignore_label))),
            "reset": dialect == "dl1" or message.reset,
        }

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """Scores (N, C, H, W), labels (N, 1, H, W)."""
        scores, labels = (self.four_axes(shape) for shape in bottoms)
        self.require_equal("the labels' channels and 1", 1, labels[1])
        for what, i in (("batch sizes", 0), ("heights", 2), ("widths", 3)):
            self.require_equal(f"{what} of scores and labels", scores[i], labels[i])
        return LayerShapes([(1, 1, 1, 3)])
