"""Which layers and blobs the weights of a model have, and how those of a file differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from deeplab_repro.models.architectures import expand
from deeplab_repro.models.blocks import run
from deeplab_repro.models.steps import Conv, Norm, Step
from deeplab_repro.models.walk import Walk
from deeplab_repro.released.checkpoints import backbone_variables, variable_shapes
from deeplab_repro.released.models import CaffeModel, ReleasedModel, TensorFlowModel, Use
from prototxt_import.matching import same_shape
from prototxt_import.words import show

__all__ = [
    "Structure",
    "blob_shapes",
    "compare_structure",
    "count_values",
    "is_stated",
    "nearest_structures",
]

_Shapes = tuple[tuple[int, ...], ...]
_Weights = Mapping[str, Sequence[np.ndarray[Any, Any]]]


@dataclass(frozen=True)
class _Layer:
    """What a file should hold of a layer.

    Attributes:
        shapes: Of its blobs.
        copy: It shares its parameters with an earlier layer, so that a file may leave it out.
        label_axis: Which axis of its first blob has the number of labels; None: no axis has.
    """

    shapes: _Shapes
    copy: bool
    label_axis: int | None


@dataclass(frozen=True)
class Structure:
    """How the weights of a file compare with those of a released model.

    Attributes:
        model: The model.
        classes: Number of labels of the file's classifiers, None where it has none or they
            disagree.
        shared: Layers that both have and whose blobs are the same in number and shape.
        missing: Layers that the file lacks.
        extra: Layers of the file that the model does not have; Caffe ignores these.
        differing: Layer whose blobs have another number or other shapes -> what differs, in a line.
    """

    model: ReleasedModel
    classes: int | None
    shared: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    differing: Mapping[str, str]

    @property
    def same_network(self) -> bool:
        """All layers are there and fit, for whatever number of labels."""
        return bool(self.shared) and not self.missing and not self.differing

    @property
    def fits(self) -> bool:
        """The file holds weights for the model."""
        return self.same_network and self.classes == self.model.num_classes

    @property
    def fits_as_init(self) -> bool:
        """Training can start from the file.

        The backbone is there, and what else there is fits, but for the classifiers.
        """
        return bool(self.shared) and not self._misfits_of_init()

    def fits_for(self, use: Use) -> bool:
        """`fits_as_init` for weights to start from, `fits` for those to score."""
        return self.fits_as_init if use == "init" else self.fits

    def difference(self, use: Use = "val") -> str:
        """What keeps the file from being used so, in a line that names the first layer; or ""."""
        if use == "init":
            return next(iter(self._misfits_of_init()), "")
        lines = [*self.differing.values(), *map(_missing, self.missing)]
        if not lines and self.classes != self.model.num_classes:
            lines = [f"it has {self.classes} labels in place of {self.model.num_classes}"]
        return (
            lines[0] + (f" (and {len(lines) - 1} more)" if len(lines) > 1 else "") if lines else ""
        )

    def _misfits_of_init(self) -> list[str]:
        layers = _layers(self.model)
        differing = [
            line for name, line in self.differing.items() if layers[name].label_axis is None
        ]
        backbone = _backbone(self.model)
        return [*differing, *(_missing(name) for name in self.missing if name in backbone)]


def blob_shapes(model: ReleasedModel, num_classes: int | None = None) -> dict[str, _Shapes]:
    """Layer -> shapes of its blobs in Caffe's order, for all layers that have any.

    Of a checkpoint a layer is a variable, which has one blob, in TensorFlow's layout; no layers
    where nobody has stated what the network is.

    Args:
        model: Its network at its width.
        num_classes: Labels; those of the model where None.
    """
    count = num_classes or model.num_classes
    if isinstance(model, TensorFlowModel):
        return {} if model.options is None else dict(variable_shapes(model, count))
    return {
        name: shapes
        for step in _steps(_as_caffe(model), count)
        for name, _, shapes in _layers_of(step)
    }


def count_values(model: ReleasedModel) -> int | None:
    """Numbers in the weights of a model, those that several layers share counted once.

    Returns:
        None where nobody has stated what the network is.
    """
    if isinstance(model, TensorFlowModel):
        return model.values
    layers = _layers(model).values()
    return sum(prod(shape) for layer in layers if not layer.copy for shape in layer.shapes)


def is_stated(model: ReleasedModel) -> bool:
    """Whether its layers are known, so that a file can be held against them."""
    return not (isinstance(model, TensorFlowModel) and model.options is None)


def compare_structure(model: ReleasedModel, weights: _Weights) -> Structure:
    """Hold the weights of a file against a released model.

    Args:
        model: The model.
        weights: Layer -> blobs, as `prototxt_import.read_weights` gives them; blobs of old files
            with four axes fit where their sizes do.
    """
    layers = _layers(model)
    held = {name: [blob.shape for blob in blobs] for name, blobs in weights.items() if blobs}
    heads = {
        held[name][0][layer.label_axis]
        for name, layer in layers.items()
        if layer.label_axis is not None and len(held.get(name, [()])[0]) > layer.label_axis
    }
    classes = heads.pop() if len(heads) == 1 else None
    expected = _layers(model, classes) if classes else layers
    shared, missing, differing = [], [], {}
    for name, layer in expected.items():
        if name not in held:
            if not layer.copy:
                missing.append(name)
        elif line := _difference(name, layer.shapes, held[name]):
            differing[name] = line
        else:
            shared.append(name)
    extra = [name for name in held if name not in expected]
    return Structure(model, classes, tuple(shared), tuple(missing), tuple(extra), differing)


def nearest_structures(models: Sequence[ReleasedModel], weights: _Weights) -> list[Structure]:
    """How the weights of a file compare with each model, the most alike first."""

    def distance(structure: Structure) -> tuple[bool, int, bool]:
        differences = structure.missing, structure.extra, structure.differing
        other_classes = structure.classes != structure.model.num_classes
        return not structure.shared, sum(map(len, differences)), other_classes

    return sorted((compare_structure(model, weights) for model in models), key=distance)


def _difference(name: str, expected: _Shapes, got: Sequence[tuple[int, ...]]) -> str:
    if len(expected) != len(got):
        return f"layer '{name}' has {len(got)} blobs in place of {len(expected)}"
    for i, (shape, held) in enumerate(zip(expected, got, strict=True)):
        if not same_shape(held, shape):
            return f"layer '{name}', blob {i} is {show(held)} in place of {show(shape)}"
    return ""


def _layers(model: ReleasedModel, num_classes: int | None = None) -> dict[str, _Layer]:
    count = num_classes or model.num_classes
    shapes, one_more = blob_shapes(model, count), blob_shapes(model, count + 1)
    owners = {} if isinstance(model, TensorFlowModel) else _owners(_as_caffe(model))
    return {
        name: _Layer(blobs, owners.get(name, name) != name, _grown(blobs, one_more[name]))
        for name, blobs in shapes.items()
    }


def _grown(shapes: _Shapes, one_more: _Shapes) -> int | None:
    """Which axis of the first blob is longer for one more label."""
    pairs = zip(shapes[0], one_more[0], strict=True)
    return next((axis for axis, (size, more) in enumerate(pairs) if size != more), None)


def _as_caffe(model: ReleasedModel) -> CaffeModel:
    assert isinstance(model, CaffeModel)  # there are two kinds
    return model


def _owners(model: CaffeModel) -> dict[str, str]:
    """Layer -> the layer whose parameters it shares."""
    steps = _steps(model, model.num_classes)
    return {name: owner for step in steps for name, owner, _ in _layers_of(step)}


def _steps(model: CaffeModel, num_classes: int) -> tuple[Step, ...]:
    architecture = model.definition.architecture
    expansion = expand(architecture, num_classes=num_classes, width=model.width, exp=model.exp)
    return expansion.steps


def _backbone(model: ReleasedModel) -> set[str]:
    """The layers below the head that have blobs."""
    if isinstance(model, TensorFlowModel):
        return set() if model.options is None else backbone_variables(model)
    model = _as_caffe(model)
    architecture = model.definition.architecture
    walk = Walk(
        num_classes=model.num_classes,
        training=False,
        output_stride=architecture.output_stride,
        width=model.width,
        exp=model.exp,
    )
    feature = walk.input("data", 3)
    for stage in architecture.backbone:
        feature = run(stage, walk, feature)
    return {name for step in walk.steps for name, _, _ in _layers_of(step)}


def _layers_of(step: Step) -> Iterator[tuple[str, str, _Shapes]]:
    """(name, name of the layer whose parameters it shares, shapes of the blobs)."""
    match step:
        case Conv():
            window = (step.kernel, step.kernel)
            weight = (step.out_channels, step.in_channels // step.groups, *window)
            yield step.name, step.owner, (weight, *([(step.out_channels,)] if step.bias else []))
        case Norm():
            channels = (step.channels,)
            yield step.name, step.owner, (channels, channels, (1,))
            yield step.scale, step.scale_owner, (channels, channels)


def _missing(name: str) -> str:
    return f"layer '{name}' is missing"
