"""Pictures to label maps, as the released test networks and their Matlab scripts made them.

>>> from deeplab_repro import load_caffe
>>> from deeplab_repro.inference.segmentation import segment
>>> net = load_caffe("test.prototxt", "train_iter_20000.caffemodel")
>>> labels, scores = segment(net, cv2.imread("picture.jpg"))
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from deeplab_repro.caffe.net import CaffeNet
from deeplab_repro.crf import CRFParams, dense_crf
from deeplab_repro.pictures.reading import VOC_MEAN, Preparation, resize_picture
from prototxt_import import CaffeImportError, Net, NetShapes, Shape, infer_net

__all__ = ["InputRule", "Segmentation", "Segmenter", "input_rule", "scoring_net", "segment"]

Fuse = Literal["max", "mean"]
Array = NDArray[np.float32]
#: Sides of the test crops of the released networks: of all, and of the plain one.
_TEST_CROPS: Final = (513, 514)
_STEPS: Final = (1, 2, 4, 8, 16, 32, 64)


class Segmentation(NamedTuple):
    """What a network says about a picture.

    Attributes:
        labels: (H, W) class ids; uint8 up to 256 classes, int16 beyond.
        scores: (C, H, W) float32, what the labels are the first maximum of; marginals of the CRF
            where there is one.
    """

    labels: NDArray[np.uint8] | NDArray[np.int16]
    scores: Array


@dataclass(frozen=True)
class InputRule:
    """Which input sizes a network gives aligned scores for.

    Attributes:
        crop: (height, width) to pad to.
        step: sides of ``crop + k * step`` are as good; None if the crop alone is.
        declared: the size that the network's file states, if it is as good; goes first.
        zoom: input pixels between neighbouring scores; 1 where the network zooms them itself.
        classes: channels of the scores.
    """

    crop: tuple[int, int]
    step: int | None
    declared: tuple[int, int] | None
    zoom: int
    classes: int

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """The size to pad a picture to.

        For either side the first that holds it: the declared size, the test crop, and then the
        next ``crop + k * step``.

        Raises:
            CaffeImportError: larger than a network of one size takes.
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
                raise CaffeImportError(
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
        zoom = _zoom((sizes[1], sizes[2]), (height, width))
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
        got="x".join(map(str, shape)),
    )


def _zoom(scores: tuple[int, int], size: tuple[int, int]) -> int | None:
    """k if ``scores`` are at every k-th pixel of ``size``, corners included."""
    if scores == size:
        return 1
    (small_h, small_w), (height, width) = scores, size
    if min(scores) < 2 or (height - 1) % (small_h - 1):
        return None
    factor = (height - 1) // (small_h - 1)
    return factor if factor > 1 and (small_w - 1) * factor == width - 1 else None


class Segmenter:
    """Labels pictures with one network.

    Every picture is prepared as the released test networks do: BGR minus the mean, padded right
    and bottom to the test crop; the scores are cropped to the picture's rows and columns from the
    top left, and the label is the first maximum (matlab/my_script/EvalSegResults.m).

    Args:
        net: the network, in the TEST phase.  Only what the scores need is kept in memory while it
            runs if it was made from a :func:`scoring_net`.
        blob: the scores, see :func:`scoring_net`.
        mean: subtracted; three numbers (blue, green, red), a (3, H, W) picture, or None.
        pad_to: pad to this side, or (H, W), instead of the :class:`InputRule`'s.
        scales: multi-scale testing: the picture is resized by each factor (sizes are cut to whole
            pixels; OpenCV's bilinear), the scores are resized back the same way.
        fuse: over the scales, ``"max"`` as DeepLab v2 does (section 4.1.2), or ``"mean"``.
        crf: refine the scores by a dense CRF over the picture, as DeepLab's programs do.

    Scores that the network does not zoom to the picture's size (a train network's) are zoomed here
    by Interp's rule: bilinear, the corners held in place.

    Raises:
        CaffeImportError: a network without scores for a picture.
    """

    def __init__(
        self,
        net: CaffeNet,
        *,
        blob: str | None = None,
        mean: tuple[float, float, float] | Array | None = VOC_MEAN,
        pad_to: int | tuple[int, int] | None = None,
        scales: Sequence[float] = (1.0,),
        fuse: Fuse = "max",
        crf: CRFParams | None = None,
    ) -> None:
        part = scoring_net(net.net, blob)
        self.net = net
        self.blob = part.outputs[0]
        self.picture = next(iter(net.net.inputs))
        others = [name for name in part.inputs if name != self.picture]
        if others or self.picture not in part.inputs:
            raise CaffeImportError(
                f"blob '{self.blob}' does not come from the picture alone",
                file=net.net.file,
                expected=f"input '{self.picture}'",
                got=", ".join(part.inputs) or "no input",
            )
        if not scales or not all(0 < scale < float("inf") for scale in scales):
            raise CaffeImportError("scales", expected="positive numbers", got=list(scales))
        if fuse not in ("max", "mean"):
            raise CaffeImportError("fuse", expected="max or mean", got=fuse)
        self.mean, self.scales, self.fuse = mean, tuple(scales), fuse
        self.pad_to = (pad_to, pad_to) if isinstance(pad_to, int) else pad_to
        self.crf = crf
        self.rule = input_rule(part)

    def input_sizes(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """The padded size of a picture at each scale; pictures alike in it fit in one batch."""
        sizes = (self._scaled(height, width, scale) for scale in self.scales)
        return tuple(self.pad_to or self.rule.padded(*size) for size in sizes)

    def __call__(self, pictures: Sequence[NDArray[np.uint8]]) -> list[Segmentation]:
        """Label pictures in one batch.

        Args:
            pictures: each (H, W, 3) uint8, BGR; alike in :meth:`input_sizes`.

        Raises:
            CaffeImportError: pictures of another form, or larger than ``pad_to``; scores with NaN.
        """
        for picture in pictures:
            if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
                raise CaffeImportError(
                    "picture",
                    expected="(H, W, 3) uint8, BGR",
                    got=f"{picture.shape} {picture.dtype}",
                )
            if not picture.size:
                raise CaffeImportError("the picture has no pixels", got=picture.shape)
        if not pictures:
            return []
        sizes = {self.input_sizes(picture.shape[0], picture.shape[1]) for picture in pictures}
        if len(sizes) > 1:
            raise CaffeImportError("pictures of one batch", expected="one padded size", got=sizes)
        fused: list[Tensor] = []
        for scale, size in zip(self.scales, sizes.pop(), strict=True):
            there = self._run(pictures, scale, size)
            fused = (
                [self._fused(a, b) for a, b in zip(fused, there, strict=True)] if fused else there
            )
        if self.fuse == "mean":
            fused = [scores / len(self.scales) for scores in fused]
        if self.crf:
            fused = [
                _refined(scores, picture, self.crf)
                for scores, picture in zip(fused, pictures, strict=True)
            ]
        return [_labelled(scores) for scores in fused]

    def _fused(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.maximum(a, b) if self.fuse == "max" else a + b

    def _scaled(self, height: int, width: int, scale: float) -> tuple[int, int]:
        """Truncated, as data_transformer.cpp scales pictures."""
        return max(1, int(height * scale)), max(1, int(width * scale))

    def _run(
        self, pictures: Sequence[NDArray[np.uint8]], scale: float, size: tuple[int, int]
    ) -> list[Tensor]:
        """Scores (C, H, W) of each picture at its own size, from one scale."""
        prepared, shown = [], []
        for picture in pictures:
            height, width = self._scaled(picture.shape[0], picture.shape[1], scale)
            if (height, width) != picture.shape[:2]:
                picture = resize_picture(picture, (height, width))
            shown.append((height, width))
            prepared.append(Preparation(self.mean, pad_to=size).apply(picture))
        values = torch.from_numpy(np.concatenate(prepared))
        parameter = next(chain(self.net.parameters(), self.net.buffers()), values)
        with torch.inference_mode():
            inputs = {self.picture: values.to(parameter.device)}
            if self.net.outputs == [self.blob]:
                scores = self.net(**inputs)[self.blob]
            else:
                scores = self.net.blobs(**inputs)[self.blob]
            scores = _full_size(scores, size, self.blob)
            found = []
            for picture, one, (height, width) in zip(pictures, scores, shown, strict=True):
                one = one[:, :height, :width]
                if one.shape[1:] != picture.shape[:2]:
                    # Pixel centres stay where OpenCV's resize has put them.
                    one = F.interpolate(one[None], picture.shape[:2], mode="bilinear")[0]
                found.append(one)
        return found


def segment(net: CaffeNet, picture: NDArray[np.uint8], **options: Any) -> Segmentation:
    """Label one picture; for several make a :class:`Segmenter`, whose options these are.

    Args:
        net: the network, in the TEST phase.
        picture: (H, W, 3) uint8, BGR.
        options: ``blob``, ``mean``, ``pad_to``, ``scales``, ``fuse``, ``crf``.

    Returns:
        labels (H, W) uint8 (int16 beyond 256 classes) and scores (C, H, W) float32.

    Raises:
        CaffeImportError: a network without scores, or a picture that does not fit.
    """
    return Segmenter(net, **options)([picture])[0]


def _full_size(scores: Tensor, size: tuple[int, int], blob: str) -> Tensor:
    """Scores (N, C, h, w) of an input of ``size`` at that size."""
    height, width = scores.shape[2:]
    if _zoom((height, width), size):
        if (height, width) == size:
            return scores
        return F.interpolate(scores, size, mode="bilinear", align_corners=True)
    if height >= size[0] and width >= size[1]:
        return scores  # what is beyond the input is cut off with the padding, as Matlab did
    raise CaffeImportError(
        f"blob '{blob}' of {height}x{width} does not cover an input of {size[0]}x{size[1]}",
        expected="an input size that suits the network's strides, such as 8k + 1",
    )


def _refined(scores: Tensor, picture: NDArray[np.uint8], params: CRFParams) -> Tensor:
    """Marginals (C, H, W) of scores and a picture, (H, W, 3) BGR."""
    rgb = torch.from_numpy(np.ascontiguousarray(picture[:, :, ::-1].transpose(2, 0, 1)))
    try:
        q: Tensor = dense_crf(-scores[None], rgb[None].to(scores.device), params)
    except ValueError as error:
        raise CaffeImportError(str(error)) from None
    return q[0]


def _labelled(scores: Tensor) -> Segmentation:
    values: Array = scores.cpu().numpy()
    if np.isnan(values).any():
        raise CaffeImportError("the scores hold NaN")
    kind = np.uint8 if len(values) <= 256 else np.int16
    # numpy's argmax is the first maximum, like Matlab's; torch does not promise which.
    return Segmentation(values.argmax(0).astype(kind), values)
