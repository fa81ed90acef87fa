"""Shape rules of losses and accuracies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prototxt_import.shapes.core import (
    LayerShapes,
    canonical_axis,
    count,
    fail,
    is_legacy,
    legacy,
    loss_shape,
    require_equal,
    rule,
    scalar_shape,
)

if TYPE_CHECKING:
    from prototxt_import.net import Layer, Shape


def _labels_match(layer: Layer, bottoms: list[Shape], axis: int) -> None:
    """One label per place outside ``axis`` (softmax_loss_layer.cpp, accuracy_layer.cpp)."""
    scores, labels = bottoms[:2]
    places = count([*scores[:axis], *scores[axis + 1 :]])
    require_equal(layer, "numbers of predictions and labels", places, count(labels))


def _one_label_an_item(layer: Layer, bottoms: list[Shape]) -> None:
    for what, size in zip(("channels", "height", "width"), legacy(layer, bottoms[1])[1:],
                          strict=True):  # fmt: skip
        require_equal(layer, f"the labels' {what} and 1", 1, size)


@rule("SoftmaxWithLoss", bottoms=2, tops=(1, 2), automatic_top=True)
def _softmax_with_loss(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """softmax_loss_layer.cpp; a second top holds the probabilities."""
    scores = bottoms[0]
    axis = canonical_axis(layer, layer.spec.softmax_param.axis, len(scores))
    loss = loss_shape(layer, bottoms)
    _labels_match(layer, bottoms, axis)
    return LayerShapes([loss, scores][: max(1, len(layer.tops))])


@rule("InfogainLoss", bottoms=(2, 3), tops=(1, 2), automatic_top=True)
def _infogain(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """infogain_loss_layer.cpp: over an axis of scores; in the forks, over whole items."""
    scores, spec = bottoms[0], layer.spec.infogain_loss_param
    if len(bottoms) == 2 and not spec.HasField("source"):
        fail(layer, "no infogain matrix", expected="a third bottom or infogain_loss_param.source")
    loss = loss_shape(layer, bottoms)
    if layer.dialect == "bvlc":
        if layer.spec.loss_param.HasField("normalize"):
            fail(layer, "loss_param.normalize is not read here", expected="normalization")
        axis = canonical_axis(layer, spec.axis, len(scores))
        _labels_match(layer, bottoms, axis)
        labels = scores[axis]
    else:
        if len(layer.tops) > 1:
            fail(layer, "too many tops", expected=1, got=len(layer.tops))
        _one_label_an_item(layer, bottoms)
        labels = count(scores[1:])
    if len(bottoms) == 3:
        square = None if labels is None else labels * labels
        require_equal(layer, "numbers of values of the infogain matrix", square, count(bottoms[2]))
    return LayerShapes([loss, scores][: max(1, len(layer.tops))])


@rule("MultinomialLogisticLoss", "HingeLoss", bottoms=2, automatic_top=True)
def _label_loss(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """multinomial_logistic_loss_layer.cpp, hinge_loss_layer.cpp: one label an item."""
    loss = loss_shape(layer, bottoms)
    _one_label_an_item(layer, bottoms)
    return LayerShapes([loss])


@rule("EuclideanLoss", "SigmoidCrossEntropyLoss", bottoms=2, automatic_top=True)
def _target_loss(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """euclidean_loss_layer.cpp, sigmoid_cross_entropy_loss_layer.cpp: a target for every value."""
    loss = loss_shape(layer, bottoms)
    require_equal(layer, "numbers of values of the bottoms", *(count(shape) for shape in bottoms))
    return LayerShapes([loss])


@rule("ContrastiveLoss", bottoms=3, automatic_top=True)
def _contrastive(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """contrastive_loss_layer.cpp: pairs of N x C vectors and whether they belong together."""
    loss = loss_shape(layer, bottoms)
    first, second, similar = (legacy(layer, shape) for shape in bottoms)
    require_equal(layer, "channels of the pairs", first[1], second[1])
    require_equal(layer, "batch sizes of bottoms 0 and 2", first[0], similar[0])
    for number, sizes in ((0, first[2:]), (1, second[2:]), (2, similar[1:])):
        for size in sizes:
            require_equal(layer, f"further sizes of bottom {number} and 1", 1, size)
    return LayerShapes([loss])


@rule("Accuracy", bottoms=2, tops=(1, 2))
def _accuracy(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """accuracy_layer.cpp; a second top holds the accuracy of every class."""
    scores, spec = bottoms[0], layer.spec.accuracy_param
    if is_legacy(layer):
        require_equal(layer, "batch sizes of bottoms 0 and 1", scores[0], bottoms[1][0])
        _one_label_an_item(layer, bottoms)
        classes = count(scores[1:])
        if len(layer.tops) > 1:
            fail(layer, "too many tops", expected=1, got=len(layer.tops))
    else:
        axis = canonical_axis(layer, spec.axis, len(scores))
        _labels_match(layer, bottoms, axis)
        classes = scores[axis]
    labels = count(bottoms[1])
    if spec.top_k < 1 or (classes is not None and labels is not None and spec.top_k > classes):
        fail(layer, "bad top_k", expected=f"1..{classes}", got=spec.top_k)
    return LayerShapes([scalar_shape(layer), (classes,)][: max(1, len(layer.tops))])


@rule("SegAccuracy", bottoms=2)
def _seg_accuracy(layer: Layer, bottoms: list[Shape]) -> LayerShapes:
    """seg_accuracy_layer.cpp: pixel accuracy, mean recall, mean intersection over union."""
    scores, labels = (legacy(layer, shape) for shape in bottoms)
    require_equal(layer, "the labels' channels and 1", 1, labels[1])
    for what, i in (("batch sizes", 0), ("heights", 2), ("widths", 3)):
        require_equal(layer, f"{what} of scores and labels", scores[i], labels[i])
    return LayerShapes([(1, 1, 1, 3)])
