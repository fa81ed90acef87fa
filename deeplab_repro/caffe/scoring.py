"""The part of a network that scores a picture, and the input sizes that suit it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from deeplab_repro.errors import InputError
from prototxt_import import CaffeImportError, Net, NetShapes, Shape, infer_net
from prototxt_import.words import show

__all__ = ["InputRule", "input_rule", "scoring_net", "zoom_between"]

#: Sides of the test crops of the released networks: of all, and of the plain one.
_TEST_CROPS: Final = (513, 514)
_STEPS: Final = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class InputRule:
    """Which input sizes a network gives aligned scores for.

    Attributes:
        crop: (height, width) to pad to.
        step: sides of ``crop + k * step`` are as good; None if the crop alone is.
        declared: the size that the network's file states, if it is as good; goes first.
        zoom: input pixels between neighbouring scores; 1 where the network zooms them itself.
        classes: channels of the scores; None if that is not known.
    """

    crop: tuple[int, int]
    step: int | None
    declared: tuple[int, int] | None
    zoom: int = 1
    classes: int | None = None

    def suits(self, height: int, width: int) -> bool:
        """Whether the scores of an input of this size lie where its pixels are."""
        if (height, width) in (self.crop, self.declared):
            return True
        sides = zip((height, width), self.crop, strict=True)
        return self.step is not None and all((a - b) % self.step == 0 for a, b in sides)

    def words(self) -> str:
        """The sides that suit, such as ``8k + 1``."""
        if self.step is None:
            return f"{self.crop[0]} and {self.crop[1]}"
        rests = dict.fromkeys(side % self.step for side in self.crop)
        return " and ".join(f"{self.step}k + {rest}" for rest in rests)

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """The size to pad a picture to.

        For either side the first that holds it: the declared size, the test crop, and then the
        next ``crop + k * step``.

        Raises:
            InputError: larger than a network of one size takes.
        """
        sides = []
        for axis, side in enumerate((height, width)):
            crop = self.crop[axis]
            if self.declared and side <= self.declared[axis]:
                sides.append(self.declared[axis])
            elif side <= crop:
                sides.append(crop)
            elif self.step:
                sides.append(crop + -(-(side - crop) // self.step) * self.step)
            else:
                raise InputError(
                    "the picture is larger than this network's only input size",
                    expected=f"at most {self.crop[0]}x{self.crop[1]}",
                    got=f"{height}x{width}",
                )
        return sides[0], sides[1]


def scoring_net(net: Net, blob: str | None = None) -> Net:
    """The part of a network that the scores of a picture need, with them as its only output.

    Args:
        net: a TEST, deploy or even a TRAIN network.
        blob: the scores.  By default the one 4-D blob that can be computed from the picture alone
            and that no further such layer reads.  Of an ArgMax it is the bottom: labels are taken
            here, after the padding is cut off.

    Raises:
        CaffeImportError: no such blob, or several.
    """
    if not net.inputs:
        raise CaffeImportError("the network has no inputs", file=net.file)
    picture = next(iter(net.inputs))
    writers: dict[str, Any] = {}
    read: set[str] = set()
    for layer in net.layers:
        if all(bottom == picture or bottom in writers for bottom in layer.bottoms):
            writers.update(dict.fromkeys(layer.tops, layer))
            if layer.role not in ("silence", "writer"):
                read.update(set(layer.bottoms) - set(layer.tops))
    if blob is None:
        names = [name for name in writers if name not in read]
    elif blob in writers:
        names = [blob]
    else:
        raise CaffeImportError(
            f"no blob '{blob}' can be computed from the picture alone",
            file=net.file,
            expected=f"--blob of {', '.join(list(writers)[-5:])}, ...",
        )
    names = [writers[n].bottoms[0] if writers[n].type == "ArgMax" else n for n in names]
    names = list(dict.fromkeys(names))
    if blob is None and len(names) > 1:
        part = _part(net, names)
        shapes = infer_net(part, dict(_first_shape(part))).blobs
        names = [name for name in names if len(shapes[name]) == 4] or names
    if len(names) != 1:
        raise CaffeImportError(
            "which blob holds the scores?" if names else "the network has no scores",
            file=net.file,
            expected=f"--blob with one of {', '.join(names)}" if names else "a blob of scores",
        )
    return _part(net, names)


def _part(net: Net, blobs: Sequence[str]) -> Net:
    needed = set(blobs)
    kept = []
    for layer in reversed(net.layers):
        if not needed.isdisjoint(layer.tops):
            kept.append(layer)
            needed.difference_update(layer.tops)
            needed.update(layer.bottoms)
    inputs = {name: declared for name, declared in net.inputs.items() if name in needed}
    return replace(net, layers=kept[::-1], inputs=inputs, outputs=list(blobs))


def _first_shape(net: Net) -> Iterable[tuple[str, tuple[int, ...]]]:
    """An input shape that shapes can be inferred for."""
    picture = next(iter(net.inputs))
    for side in _TEST_CROPS:
        shape = (1, 3, side, side)
        try:
            infer_net(net, {picture: shape})
        except CaffeImportError:
            continue
        return [(picture, shape)]
    return []


def input_rule(net: Net) -> InputRule:
    """Find out which input sizes suit a network of :func:`scoring_net`, by its blobs' shapes.

    A size suits if the scores have the input's size, or lie at every ``zoom``-th pixel with the
    corners on the corners, as Interp and the strides of DeepLab place them: sides of 8k + 1, of
    8k + 2 for the plain network of the first paper, of 32k + 1 for ResNet-101 with three scales.

    Raises:
        CaffeImportError: no size does; with the shapes at the first that was tried.
    """
    picture, declared = next(iter(net.inputs.items()))
    blob = net.outputs[0]

    def parameters(shapes: NetShapes) -> list[Shape]:
        return [shape for item in shapes.layers for shape in item.shapes.params]

    weights = parameters(infer_net(net))

    def look(height: int, width: int) -> tuple[int, int] | None:
        """(zoom, classes) if the size suits."""
        try:
            shapes = infer_net(net, {picture: (1, 3, height, width)})
        except CaffeImportError:
            return None
        pairs = zip(weights, parameters(shapes), strict=True)
        if any(None not in known and known != needed for known, needed in pairs):
            return None  # an InnerProduct fixes the size of its bottom
        shape = shapes.blobs[blob]
        sizes = [size for size in shape[1:] if size is not None]
        if len(shape) != 4 or len(sizes) != 3:
            return None
        zoom = zoom_between((sizes[1], sizes[2]), (height, width))
        return (zoom, sizes[0]) if zoom else None

    sides = declared.shape[2:4]
    own = (sides[0], sides[1]) if len(sides) == 2 and sides[0] and sides[1] else None
    # A train network's size is that of its training crops, no size to test at.
    full = own if own and (look(*own) or (0,))[0] == 1 else None
    crops = [(side, side) for side in _TEST_CROPS] + ([own] if own else [])
    for height, width in crops:
        found = look(height, width)
        if found:
            step = next((s for s in _STEPS if look(height + s, width + s) == found), None)
            return InputRule((height, width), step, full, *found)
    height, width = crops[-1]
    try:
        shape = infer_net(net, {picture: (1, 3, height, width)}).blobs[blob]
    except CaffeImportError as error:
        raise (error.with_file(net.file) if net.file else error) from None
    raise CaffeImportError(
        f"blob '{blob}' is no score map of the picture",
        file=net.file,
        expected=f"1xCx{height}x{width}, or every k-th of its pixels, corners included",
        got=show(shape),
    )


def zoom_between(scores: tuple[int, int], size: tuple[int, int]) -> int | None:
    """The k for which ``scores`` are at every k-th pixel of ``size``, corners included.

    Args:
        scores: height and width of a map of scores.
        size: height and width of the network's input.

    Returns:
        k; None if there is none.
    """
    if scores == size:
        return 1
    (small_h, small_w), (height, width) = scores, size
    if min(scores) < 2 or (height - 1) % (small_h - 1):
        return None
    factor = (height - 1) // (small_h - 1)
    return factor if factor > 1 and (small_w - 1) * factor == width - 1 else None
