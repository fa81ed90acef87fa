"""Initial weights as the authors made them: an ImageNet network cut to the form of a DeepLab one.

What the papers and released files say, and what they leave open:

- VGG-16's fully connected layers become convolutions: fc6 is 7x7, fc7 1x1 (arXiv 1412.7062, section
  3.1).  The numbers stay as they are.
- fc6 is decimated from 7x7 to 4x4 or 3x3 taps "by simple decimation" (section 3.2).  Which taps is
  not stated.  Here they are the evenly spaced ones from end to end: 0, 2, 4, 6 and 0, 3, 6.  Only
  these agree with the published rates: 7 taps at rate 4 span 24 rows, as do 4 taps at rate 8
  (DeepLab-4x4) and 3 taps at rate 12 (LargeFOV).
- Of fc6's and fc7's 4096 filters a random subset of 1024 stays (arXiv 1606.00915, section 4.1.1).
  Which one is not known; here it follows from a seed.  The authors' MATLAB tool for ResNet-101 took
  every second of 2048 instead (`matlab/resnet101_net_surgery.m`); `pick="every"` does so.
- The branches of ASPP all start from the same fc6 and fc7; whether the authors' did is not known.
- Classifiers, and the side branches of DeepLab-MSc, start from the fillers of the train net.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isqrt, prod
from typing import Any, Final, Literal, NoReturn, TypeAlias

import numpy as np
import torch

from deeplab_repro.caffe.layers.fillers import fill
from deeplab_repro.errors import InputError
from prototxt_import import Net, Shape, ShapedLayer, infer_net
from prototxt_import import layers as kinds
from prototxt_import.matching import shared_parameters
from prototxt_import.words import show

__all__ = ["Grafted", "Pick", "graft"]

Array: TypeAlias = "np.ndarray[Any, Any]"
Pick = Literal["random", "every"]
#: Layers whose outputs are new channels; others pass on the channels that they read.
_MIXING: Final = (kinds.Convolution, kinds.Deconvolution, kinds.InnerProduct)


@dataclass
class Grafted:
    """Initial weights, and where they come from.

    Attributes:
        weights: layer -> blobs in the shapes that the network asks for, float32.
        same: layers whose blobs were copied as they are.
        changed: layer -> how its blobs were made from which layer's.
        new: layer -> the filler that it starts from.
        unused: layers of the source that went nowhere.
    """

    weights: dict[str, list[Array]] = field(default_factory=dict, repr=False)
    same: list[str] = field(default_factory=list)
    changed: dict[str, str] = field(default_factory=dict)
    new: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)


def graft(
    net: Net, source: Mapping[str, Sequence[Array]], *, pick: Pick = "random", seed: int = 0
) -> Grafted:
    """Fill a network from the weights of another one, layer by layer by their names.

    A layer that is wider or has a larger kernel in the source is cut; a matrix becomes the
    convolution that computes the same; `fc6_1` ... are filled from `fc6` where the source has no
    layers of their own names.  The classifiers, which no other weights read, are taken over as they
    are or start anew.

    Args:
        net: the network to fill.
        source: layer -> blobs, in Caffe's order and shapes.
        pick: which of a layer's channels stay where there are fewer.  "random": a subset, the same
            for layers of equal width, so that what they are added to fits; "every": every n-th.
        seed: of the random subset, and of the fillers.

    Raises:
        InputError: a layer does not fit, or has nothing to start from.
    """
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        return _Surgeon(net, source, pick, seed).operate()


class _Surgeon:
    """Goes through a network in running order."""

    def __init__(
        self, net: Net, source: Mapping[str, Sequence[Array]], pick: Pick, seed: int
    ) -> None:
        self._result = Grafted()
        self._source = {name: blobs for name, blobs in source.items() if blobs}
        self._pick, self._seed = pick, seed
        shapes = infer_net(net)
        self._layers = shapes.layers
        self._shared = shared_parameters(shapes)
        self._inner = _read_by_others(shapes.layers)
        self._donors: dict[str, str | None] = {}  # layer -> the one of the source that fills it
        self._channels = {  # blob -> how many channels it has in the source
            name: _channels(declared.shape) for name, declared in net.inputs.items()
        }

    def operate(self) -> Grafted:
        """Fill every layer of the new network."""
        for item in self._layers:
            name = item.layer.name
            if item.shapes.params:
                owner, _ = self._shared.get((name, 0), (name, 0))
                if owner == name:
                    self._donors[name] = self._fill(item)
                else:
                    self._donors[name] = self._donors[owner]
                    self._result.weights[name] = self._result.weights[owner]
            self._follow(item, self._donors.get(name))
        filled = {name for name, donor in self._donors.items() if donor is not None}
        used = {*self._donors.values(), *filled}  # copies of shared layers, too
        self._result.unused = [name for name in self._source if name not in used]
        return self._result

    def _fill(self, item: ShapedLayer) -> str | None:
        """Fill a layer; the name of the one that it was filled from, None for a new one."""
        name = item.layer.name
        donor = self._donor(item)
        if donor is None:
            self._result.weights[name], self._result.new[name] = self._from_fillers(item)
            return None
        blobs, changes = self._cut(item, donor)
        self._result.weights[name] = blobs
        if donor != name:
            changes.insert(0, f"from {donor}")
        if changes:
            self._result.changed[name] = ", ".join(changes)
        else:
            self._result.same.append(name)
        return donor

    def _donor(self, item: ShapedLayer) -> str | None:
        name = item.layer.name
        if name in self._inner:
            stem = re.sub(r"_\d+$", "", name)
            return name if name in self._source else stem if stem in self._source else None
        # A classifier of other classes says nothing about these.
        found = [np.size(blob) for blob in self._source.get(name, ())]
        return name if found == [_count(shape) for shape in item.shapes.params] else None

    def _follow(self, item: ShapedLayer, donor: str | None) -> None:
        """Note how many channels the tops have in the source."""
        for top, shape in zip(item.layer.tops, item.shapes.tops, strict=True):
            channels = _channels(shape)
            if isinstance(item.layer, _MIXING):
                if donor is not None:
                    weights = self._source[donor][0]
                    inputs = self._channels[item.layer.bottoms[0]]
                    channels = weights.shape[-2 if _is_matrix(weights, inputs) else 0]
            elif item.bottoms and _channels(item.bottoms[0]) == channels:
                channels = self._channels[item.layer.bottoms[0]]
            self._channels[top] = channels

    def _from_fillers(self, item: ShapedLayer) -> tuple[list[Array], str]:
        layer, (filler, *_) = item.layer, item.layer.fillers()
        is_zero = filler.type == "constant" and filler.value == 0
        if not isinstance(layer, _MIXING) or (is_zero and layer.name in self._inner):
            raise InputError(
                "has nothing to start from",
                layer=layer.name,
                expected="a layer of this name in the source, or a filler in the network",
            )
        blobs = []
        for shape, blob in zip(item.shapes.params, layer.blobs, strict=True):
            value = torch.empty(_known(shape, layer.name))
            blobs.append(fill(value, blob.filler, is_legacy=layer.dialect == "dl1").numpy())
        number = {"constant": f" {filler.value:g}", "gaussian": f" {filler.std:g}"}
        return blobs, filler.type + number.get(filler.type, "")

    def _cut(self, item: ShapedLayer, donor: str) -> tuple[list[Array], list[str]]:
        """The blobs of `donor` in the shapes that a layer asks for, and what had to be done."""
        theirs, wanted = self._source[donor], item.shapes.params
        if len(theirs) != len(wanted):
            raise InputError(
                f"layer '{donor}' of the source has another number of blobs",
                layer=item.layer.name,
                expected=len(wanted),
                got=len(theirs),
            )
        changes: list[str] = []
        blobs = []
        for i, (blob, shape) in enumerate(zip(theirs, wanted, strict=True)):
            needed = _known(shape, item.layer.name)
            said = changes if i == 0 else []  # biases and statistics go with the weights
            if _is_convolution(item) and i == 0:
                blob = self._cut_weights(item, blob, needed, said)
            elif i == 0 and len(needed) > 1 and blob.size != prod(needed):
                self._refuse(item.layer.name, show(needed), blob.shape)
            else:
                blob = self._keep(item, blob.reshape(-1), 0, prod(needed), "channels", said)
            blobs.append(np.array(blob, np.float32).reshape(needed))
        return blobs, changes

    def _cut_weights(
        self, item: ShapedLayer, blob: Array, needed: tuple[int, ...], said: list[str]
    ) -> Array:
        """Weights of a convolution: taps, channels that it reads, filters."""
        layer = item.layer
        assert isinstance(layer, kinds.Convolution)
        filters, inputs, *kernel = needed
        theirs = self._channels[layer.bottoms[0]]
        if _is_matrix(blob, theirs):
            outputs, values = blob.shape[-2:]
            side = isqrt(values // theirs) if theirs else 0
            if not theirs or side * side * theirs != values:
                self._refuse(layer.name, f"a matrix for maps of {theirs} channels", blob.shape)
            blob = blob.reshape(outputs, theirs, side, side)
            said.append(f"{outputs}x{values} as {show(blob.shape)}")
        if layer.group > 1 and blob.shape[:2] != needed[:2]:
            self._refuse(layer.name, f"{show(needed)} in {layer.group} groups", blob.shape)
        if blob.ndim != len(needed) or blob.shape[1] * layer.group != theirs:
            self._refuse(layer.name, f"weights that read {theirs} channels", blob.shape)
        for axis, size in enumerate(kernel, 2):
            taps = _taps(blob.shape[axis], size)
            if taps is None:
                self._refuse(layer.name, f"a kernel that can be cut to {show(needed)}", blob.shape)
            if len(taps) < blob.shape[axis]:
                if axis == 2:
                    rows = ", ".join(map(str, taps))
                    said.append(f"rows and columns {rows} of {blob.shape[axis]}")
                blob = np.take(blob, taps, axis)
        blob = self._keep(item, blob, 1, inputs, "input channels", said)
        return self._keep(item, blob, 0, filters, "filters", said)

    def _keep(
        self, item: ShapedLayer, blob: Array, axis: int, count: int, what: str, said: list[str]
    ) -> Array:
        """So many of the channels along an axis."""
        total = blob.shape[axis]
        if total == count:
            return blob
        if total < count:
            self._refuse(item.layer.name, f"at least {count} {what}", blob.shape)
        if self._pick == "every":
            if total % count:
                self._refuse(item.layer.name, f"a multiple of {count} {what}", blob.shape)
            kept = np.arange(0, total, total // count)
            said.append(f"every {total // count}th of {total} {what}")
        else:
            # A generator of its own: the same subset wherever so many are chosen of so many.
            generator = torch.Generator().manual_seed(self._seed)
            kept = np.sort(torch.randperm(total, generator=generator)[:count].numpy())
            said.append(f"{count} of {total} {what} (random, seed {self._seed})")
        return np.take(blob, kept, axis)

    def _refuse(self, layer: str, expected: str, got: tuple[int, ...]) -> NoReturn:
        raise InputError(
            "the source's layer does not fit", layer=layer, expected=expected, got=show(got)
        )


def _read_by_others(layers: Sequence[ShapedLayer]) -> set[str]:
    """Layers with weights whose values reach other weights: all but the classifiers."""
    makers: dict[str, set[str]] = {}
    found: set[str] = set()
    for item in layers:
        before = set().union(*(makers.get(bottom, set()) for bottom in item.layer.bottoms))
        if isinstance(item.layer, _MIXING):
            found |= before
            before = {item.layer.name}
        elif item.shapes.params:
            found.add(item.layer.name)  # BatchNorm, Scale, ...: part of the layer before them
        for top in item.layer.tops:
            makers[top] = before
    return found


def _is_convolution(item: ShapedLayer) -> bool:
    """Deconvolution, a kind of Convolution, has its filters on the other axis."""
    is_reversed = isinstance(item.layer, kinds.Deconvolution)
    return isinstance(item.layer, kinds.Convolution) and not is_reversed


def _taps(there: int, needed: int) -> list[int] | None:
    """Evenly spaced taps from the first to the last; None where there are none such."""
    if there == needed:
        return list(range(there))
    if there < needed or needed == 1 or (there - 1) % (needed - 1):
        return None
    return list(range(0, there, (there - 1) // (needed - 1)))


def _is_matrix(weights: Array, inputs: int | None) -> bool:
    """Whether these are of a fully connected layer; files of old programs have four axes."""
    return weights.ndim == 2 or (weights.shape[:2] == (1, 1) and inputs != 1)


def _channels(shape: Shape) -> int | None:
    return shape[1] if len(shape) > 1 else None


def _known(shape: Shape, layer: str) -> tuple[int, ...]:
    if None in shape:
        raise InputError(
            "the network does not say how large its weights are", layer=layer, got=show(shape)
        )
    return tuple(size for size in shape if size is not None)


def _count(shape: Shape) -> int:
    return prod(size or 0 for size in shape)
