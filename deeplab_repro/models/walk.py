"""Walking along the tables of an architecture: the list of steps grows, rates follow strides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

from deeplab_repro.models.atrous import Sampling, StrideError
from deeplab_repro.models.steps import (
    Conv,
    Crop,
    Dropout,
    GlobalPool,
    Loss,
    Merge,
    Norm,
    Pool,
    ReLU,
    Resize,
    ResizeLike,
    Step,
)


@dataclass(frozen=True)
class Feature:
    """A map that the network computes.

    Attributes:
        name: Of the blob.
        channels: Of the map.
        stride: Pixels of the network's input from one of its rows or columns to the next.
        rate: By which the rates of convolutions that read it are multiplied.
    """

    name: str
    channels: int
    stride: Fraction = Fraction(1)
    rate: Fraction = Fraction(1)


class Walk:
    """A list of steps under construction.

    Every method that is named after a step adds one and returns the map that it writes.

    Names are written with ``{exp}`` where the released files say ``${EXP}``, and with ``{copy}``
    where the suffix of a resized copy of the input goes, if not to the end.

    Attributes:
        steps: The steps up to now.
        features: Every map up to now by its name, for branches that come back to an earlier one.
        num_classes: Channels of the scores.
        training: Whether this is the network that is trained or the one that is tested.
        output_stride: Stride of the scores.
    """

    def __init__(
        self, *, num_classes: int, training: bool, output_stride: int, width: int, exp: str
    ) -> None:
        self.steps: list[Step] = []
        self.features: dict[str, Feature] = {}
        self.num_classes = num_classes
        self.training = training
        self.output_stride = output_stride
        self._width = width
        self._exp = exp
        self._copy = ""
        self._largest_stride = Fraction(output_stride)

    def input(self, name: str, channels: int) -> Feature:
        """The map that the network is given."""
        return self._written(Feature(name, channels))

    def enter_copy(self, suffix: str, data: Feature) -> None:
        """From here on steps belong to the copy of the network that reads `data`.

        The output stride counts from `data`, which has a stride of its own where it is a resized
        copy of the input.
        """
        self._copy = suffix
        self._largest_stride = self.output_stride * data.stride

    def conv(
        self, name: str, feature: Feature, channels: int | None, kernel: int, **options: Any
    ) -> Feature:
        """Add a convolution whose padding keeps the map's size, but for its stride.

        Args:
            name: Its name.
            feature: What it reads.
            channels: Of its output, as published; None: one for each class.
            kernel: Side of the kernel.
            **options: `stride` before the atrous rule (see `_strided`), `rate` that multiplies the
                one that `feature` asks for, `suffixes` that the names of its parameters have behind
                its own name, and the other fields of `Conv`.

        Raises:
            StrideError: The rate comes out as no whole number at this output stride.
        """
        out_channels = self.num_classes if channels is None else channels // self._width
        return self._conv(name, feature, out_channels, kernel, **options)

    def depthwise(self, name: str, feature: Feature, kernel: int, **options: Any) -> Feature:
        """Add a convolution in which every channel has a kernel of its own; else like `conv`."""
        channels = feature.channels
        return self._conv(name, feature, channels, kernel, groups=channels, **options)

    def norm(self, name: str, scale: str, feature: Feature, **options: Any) -> Feature:
        """Add a normalization of `feature`; the options are the other fields of `Norm`."""
        scale_layer, scale_owner = self._names(scale)
        step = Norm(
            **self._in_place(name, feature),
            scale=scale_layer,
            scale_owner=scale_owner,
            channels=feature.channels,
            **options,
        )
        return self._add(step, feature)

    def relu(self, name: str, feature: Feature) -> Feature:
        """Add a ReLU."""
        return self._add(ReLU(**self._in_place(name, feature)), feature)

    def dropout(self, name: str, feature: Feature, probability: float = 0.5) -> Feature:
        """Add a Dropout."""
        step = Dropout(probability=probability, **self._in_place(name, feature))
        return self._add(step, feature)

    def pool(
        self,
        name: str,
        feature: Feature,
        kernel: int,
        stride: int,
        pad: int,
        method: Literal["MAX", "AVE"],
    ) -> Feature:
        """Add a pool; its stride may be dropped like a convolution's (see `_strided`)."""
        names = self._new(name, feature)
        kept, out = self._strided(replace(feature, name=names["top"]), stride)
        return self._add(Pool(kernel=kernel, stride=kept, pad=pad, method=method, **names), out)

    def global_pool(self, name: str, feature: Feature) -> Feature:
        """Add a mean over the whole map."""
        names = self._new(name, feature)
        return self._add(GlobalPool(**names), replace(feature, name=names["top"], rate=Fraction(1)))

    def resize(
        self,
        name: str,
        feature: Feature,
        *,
        zoom: int = 1,
        shrink: int = 1,
        skip: int = 0,
        top: str | None = None,
    ) -> Feature:
        """Add a change of size by a factor; `top` names the result where the step's name does not.

        The names are taken as they are: a resized copy of the input is not inside a copy.
        """
        written = name if top is None else top
        out = replace(feature, name=written, stride=feature.stride * shrink / zoom)
        step = Resize(
            name=name,
            bottoms=(feature.name,),
            top=written,
            owner=name,
            zoom=zoom,
            shrink=shrink,
            skip=skip,
        )
        return self._add(step, out)

    def resize_like(self, name: str, feature: Feature, other: Feature) -> Feature:
        """Add a change of size to that of `other`."""
        names = self._new(name, feature, other)
        out = replace(other, name=names["top"], channels=feature.channels)
        return self._add(ResizeLike(**names), out)

    def crop(self, name: str, feature: Feature, begin: int, end: int) -> Feature:
        """Add a layer that cuts rows and columns off `feature`."""
        names = self._new(name, feature)
        return self._add(Crop(begin=begin, end=end, **names), replace(feature, name=names["top"]))

    def merge(
        self, name: str, features: Sequence[Feature], operation: Literal["SUM", "MAX", "CONCAT"]
    ) -> Feature:
        """Add a sum, a maximum or a concatenation.

        Raises:
            ValueError: The maps differ in their strides, or where they are not concatenated in
                their channels.
        """
        names = self._new(name, *features)
        first = features[0]
        for other in features[1:]:
            if other.stride != first.stride:
                raise ValueError(
                    f"layer {names['name']}: {first.name} has stride {first.stride}, "
                    f"{other.name} has {other.stride}"
                )
            if other.channels != first.channels and operation != "CONCAT":
                raise ValueError(
                    f"layer {names['name']}: {first.name} has {first.channels} channels, "
                    f"{other.name} has {other.channels}"
                )
        channels = first.channels
        if operation == "CONCAT":
            channels = sum(feature.channels for feature in features)
        out = replace(first, name=names["top"], channels=channels)
        return self._add(Merge(operation=operation, **names), out)

    def loss(self, suffix: str, scores: Feature, labels: Feature) -> None:
        """Add a loss and an accuracy."""
        name = "loss" + suffix
        bottoms = (scores.name, labels.name)
        self.steps.append(
            Loss(name=name, bottoms=bottoms, top=name, owner=name, accuracy="accuracy" + suffix)
        )

    def _conv(
        self,
        name: str,
        feature: Feature,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        rate: int = 1,
        suffixes: Sequence[str] = (),
        **options: Any,
    ) -> Feature:
        names = self._new(name, feature)
        dilation = feature.rate * rate if kernel > 1 else Fraction(1)
        if dilation.denominator != 1:
            raise StrideError(
                f"layer {names['name']} would have the rate {dilation}, which is no whole number"
            )
        out = replace(feature, name=names["top"], channels=out_channels)
        kept, out = self._strided(out, stride)
        step = Conv(
            **names,
            in_channels=feature.channels,
            out_channels=out_channels,
            kernel=kernel,
            stride=kept,
            rate=int(dilation),
            pad=int(dilation) * (kernel - 1) // 2,
            parameters=tuple(names["owner"] + suffix for suffix in suffixes),
            **options,
        )
        return self._add(step, out)

    def _strided(self, feature: Feature, stride: int) -> tuple[int, Feature]:
        """Which of a layer's stride stays by the atrous rule, and the map that it writes."""
        kept, out = Sampling(feature.stride, feature.rate).strided(stride, self._largest_stride)
        return kept, replace(feature, stride=out.stride, rate=out.rate)

    def _names(self, template: str) -> tuple[str, str]:
        """The name with and without the suffix of the present copy."""
        whole = template if "{copy}" in template else template + "{copy}"
        return (
            whole.format(exp=self._exp, copy=self._copy),
            whole.format(exp=self._exp, copy=""),
        )

    def _new(self, name: str, *features: Feature) -> dict[str, Any]:
        """The fields of `Step` for one that writes a map of its own."""
        layer, owner = self._names(name)
        bottoms = tuple(feature.name for feature in features)
        return {"name": layer, "bottoms": bottoms, "top": layer, "owner": owner}

    def _in_place(self, name: str, feature: Feature) -> dict[str, Any]:
        return {**self._new(name, feature), "top": feature.name}

    def _add(self, step: Step, out: Feature) -> Feature:
        self.steps.append(step)
        return self._written(out)

    def _written(self, feature: Feature) -> Feature:
        self.features[feature.name] = feature
        return feature
