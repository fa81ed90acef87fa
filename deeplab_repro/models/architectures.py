"""An architecture as one table, and the steps that it stands for.

    >>> from deeplab_repro.models.architectures import expand
    >>> from deeplab_repro.models.vgg16 import LARGEFOV
    >>> expansion = expand(LARGEFOV, num_classes=21, output_stride=16)
    >>> [step.rate for step in expansion.steps if step.name == "fc6"]
    [6]

The tables themselves stand in `vgg16` and `resnet101`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import lcm
from typing import TypeAlias

from deeplab_repro.models.atrous import StrideError
from deeplab_repro.models.blocks import Block, SideBranch, run, to_full_size
from deeplab_repro.models.steps import Step
from deeplab_repro.models.walk import Feature, Walk

Stage: TypeAlias = tuple[Block, ...]


@dataclass(frozen=True)
class InputScale:
    """A size of the input at which a copy of the network looks, with the same parameters.

    The size is zoom / shrink of the input's.

    Attributes:
        copy: Suffix of the names of the copy's layers and blobs.
        loss: Suffix of the names of its own loss and accuracy.
        name: Of the layer that resizes the input, where the size is another one.
    """

    copy: str
    loss: str
    name: str = ""
    shrink: int = 1
    zoom: int = 1


@dataclass(frozen=True)
class Architecture:
    """A network but for its number of classes.

    Attributes:
        backbone: Stages, each a tuple of blocks; strides are those of the network before the atrous
            rule.
        head: What ends in scores: a `Head`, or another block.
        stem: Start of the names of the layers that resize and store the scores.
        output_stride: As published; the rate of every convolution follows from it (see `Walk`).
        side_branches: The scores of earlier maps (DeepLab-MSc), summed with the head's.
        scales: Sizes of the input (DeepLab v2's MSC), of whose scores the maximum is taken; the
            first one is the input's own size.
        fused: Name of this sum or maximum.
        crop: Rows and columns cut off the full-size scores, (at the top and left, at the bottom and
            right).
        label_skip: Rows and columns at the top and left of the labels that have no score.
    """

    backbone: tuple[Stage, ...]
    head: Block
    stem: str
    output_stride: int = 8
    side_branches: tuple[SideBranch, ...] = ()
    scales: tuple[InputScale, ...] = ()
    fused: str = "fc_fusion"
    crop: tuple[int, int] | None = None
    label_skip: int = 0

    def input_rule(self, output_stride: int | None = None) -> tuple[int, int]:
        """(step, rest): sides of step * k + rest give scores of the input's size.

        Then the labels and every resized copy fit their scores too: a copy's side must come out of
        its own strides as a whole number.
        """
        stride = self.output_stride if output_stride is None else output_stride
        return stride * lcm(*(scale.shrink for scale in self.scales)), 1 + self.label_skip

    def rule_for(self, side: int, output_stride: int | None = None) -> str:
        """`input_rule` in words, with the fitting sides next to one that does not fit."""
        step, rest = self.input_rule(output_stride)
        below = max(step + rest, side - (side - rest) % step)
        return f"sides of {step}k + {rest}, such as {below} or {below + step}"


@dataclass(frozen=True)
class Expansion:
    """The steps of a network in the order in which they run.

    Attributes:
        steps: Layer by layer; the first ones read "data", and the losses of training also "label".
        scores: The map of the head's scores, or of their maximum over several scales.
        output: The scores at the input's size; in training, where the losses read coarse scores,
            those that the first loss reads.
    """

    steps: tuple[Step, ...]
    scores: Feature
    output: Feature


def expand(
    architecture: Architecture,
    *,
    num_classes: int = 21,
    training: bool = False,
    output_stride: int | None = None,
    width: int = 1,
    exp: str = "voc12",
) -> Expansion:
    """The steps of an architecture.

    Args:
        architecture: Its table.
        num_classes: Channels of the scores.
        training: The network that is trained, with its losses; or else the one that is tested,
            with scores of the input's size.
        output_stride: Pixels of the input for a row or column of scores; as published where None.
        width: Divides the published channel counts.
        exp: What the released files call ${EXP} in the names of layers.

    Raises:
        ValueError: The strides of the backbone cannot give this output stride, or a rate would be
            no whole number; the message lists `output_strides`.
    """
    stride = architecture.output_stride if output_stride is None else output_stride
    try:
        return _expand(architecture, num_classes, training, stride, width, exp)
    except StrideError as error:
        strides = ", ".join(map(str, output_strides(architecture)))
        raise ValueError(
            f"output_stride: expected one of {strides}; got {stride}, at which {error}"
        ) from None


@cache
def output_strides(architecture: Architecture) -> tuple[int, ...]:
    """The output strides at which a network can be made, in training and in testing."""
    # No stride is dropped at one as large as can be: what then comes out is their product.
    whole = Walk(num_classes=1, training=False, output_stride=1 << 30, width=1, exp="")
    features = whole.input("data", 3)
    for stage in architecture.backbone:
        features = run(stage, whole, features)
    found = []
    for stride in range(1, int(features.stride) + 1):
        if features.stride % stride:
            continue
        try:
            for training in (False, True):
                _expand(architecture, 1, training, stride, 1, "")
        except ValueError:  # of the stride itself, or of maps that do not meet at it
            continue
        found.append(stride)
    return tuple(found)


def _expand(
    architecture: Architecture,
    num_classes: int,
    training: bool,
    output_stride: int,
    width: int,
    exp: str,
) -> Expansion:
    walk = Walk(
        num_classes=num_classes,
        training=training,
        output_stride=output_stride,
        width=width,
        exp=exp,
    )
    data = walk.input("data", 3)
    losses: list[tuple[str, Feature]] = []
    if architecture.scales:
        scores, losses = _fused_scales(architecture, walk, data)
    else:
        scores = _scores(architecture, walk, data)
    output = scores
    if architecture.side_branches:
        output = _with_side_branches(architecture, walk, scores)
    if training:
        _add_losses(architecture, walk, [("", output), *losses])
    else:
        output = to_full_size(f"{architecture.stem}_interp", walk, output)
        if architecture.crop is not None:
            output = walk.crop(f"{architecture.stem}_crop", output, *architecture.crop)
    return Expansion(tuple(walk.steps), scores, output)


def _scores(architecture: Architecture, walk: Walk, data: Feature) -> Feature:
    features = data
    for stage in architecture.backbone:
        features = run(stage, walk, features)
    wanted = walk.output_stride * data.stride
    if features.stride != wanted:
        raise StrideError(f"the backbone's strides come to {features.stride / data.stride}")
    return architecture.head.expand(walk, features)


def _fused_scales(
    architecture: Architecture, walk: Walk, data: Feature
) -> tuple[Feature, list[tuple[str, Feature]]]:
    """The maximum of the scores at all scales, and each scale's own with the suffix of its loss."""
    inputs = [
        walk.resize(scale.name, data, zoom=scale.zoom, shrink=scale.shrink, top="data" + scale.copy)
        if scale.name
        else data
        for scale in architecture.scales
    ]
    own = []
    for scale, copy in zip(architecture.scales, inputs, strict=True):
        walk.enter_copy(scale.copy, copy)
        own.append(_scores(architecture, walk, copy))
    walk.enter_copy("", data)
    fitted = [
        walk.resize(f"{scores.name}_interp", scores, zoom=scale.shrink, shrink=scale.zoom)
        if scale.name
        else scores
        for scale, scores in zip(architecture.scales, own, strict=True)
    ]
    # The released files list the scales from the largest to the smallest.
    order = sorted(range(len(own)), key=lambda i: own[i].stride)
    fused = walk.merge(architecture.fused, [fitted[i] for i in order], "MAX")
    # A scale is compared with labels at its own size if labels can be picked there without mixing
    # any: for 0.5 every sixteenth, but for 0.75 it would be every 10 2/3rd.
    return fused, [
        (architecture.scales[i].loss, own[i] if own[i].stride.denominator == 1 else fitted[i])
        for i in order
    ]


def _with_side_branches(architecture: Architecture, walk: Walk, scores: Feature) -> Feature:
    """Sum of all scores: in training coarse, in testing at full size.

    The first paper (section 3.3) concatenates the branches' features before the classifier; a sum
    of one 1x1 classifier per branch is the same linear map.
    """
    branches = [
        branch.expand(walk, walk.features[branch.source]) for branch in architecture.side_branches
    ]
    if not walk.training:
        scores = to_full_size(f"{architecture.stem}_interp", walk, scores)
    return walk.merge(architecture.fused, [*branches, scores], "SUM")


def _add_losses(
    architecture: Architecture, walk: Walk, compared: list[tuple[str, Feature]]
) -> None:
    """One loss for each of the scores, on labels of their size, which are decimated once."""
    label = walk.input("label", 1)
    labels: dict[int, Feature] = {}
    for suffix, scores in compared:
        stride = int(scores.stride)
        if stride not in labels:
            name = "label_shrink" + (str(stride) if labels else "")
            labels[stride] = walk.resize(name, label, shrink=stride, skip=architecture.label_skip)
        walk.loss(suffix, scores, labels[stride])
