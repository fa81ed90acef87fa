"""Mistakes in what a network was fed: seen at the first layer, which reads the picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from deeplab_repro.parity.traps.core import Look, Variant, detector, trap
from deeplab_repro.pictures.voc import VOC_MEAN
from prototxt_import import CaffeImportError, Shape, infer_net
from prototxt_import.layers import BatchNorm, Bias, Dropout, ReLU, Scale

#: The released models' mean, (B, G, R).
MEAN: Final = torch.tensor(VOC_MEAN, dtype=torch.float64)
#: Means in use differ by this much (103.5 to 104.1 for blue): the same mean, for all we ask.
_MEAN_SLACK: Final = 1.5
#: Deviations of ImageNet's colours, (B, G, R), in 0..1.
_DEVIATION: Final = torch.tensor([0.225, 0.224, 0.229], dtype=torch.float64)
_AFFINE: Final = (BatchNorm, Scale, Bias, Dropout)
#: Positions from which the colour change is fitted; 12 unknowns need no more.
_SAMPLES: Final = 20_000

SWAPPED = trap(
    "channels_swapped",
    "channels swapped (RGB / BGR)",
    "Caffe's pictures are BGR. Reverse the channels of the input (x[:, ::-1]), or, if the input "
    "is right, those of the first convolution's weights.",
)
NO_MEAN = trap(
    "mean_not_subtracted",
    "mean not subtracted, or another one",
    "Subtract (104.008, 116.669, 122.675) from blue, green, red before the network.",
)
DIVIDED = trap(
    "divided_by_255",
    "input divided by 255, or scaled otherwise",
    "Caffe's pictures run from 0 to 255 before the mean is subtracted; do not scale them "
    "(ToTensor and torchvision's Normalize do).",
)
MIXED = trap(
    "channels_mixed",
    "the input's channels were mixed",
    "The activations follow from a linear mixture of the recorded channels, such as a grey "
    "picture; feed the three colours as they are.",
)
SIZE = trap(
    "image_size",
    "picture at another size",
    "Feed the picture at the size that the recording was made for: pad it to the network's "
    "declared size instead of resizing it, or give the size actually used.",
)
PADDED = trap(
    "image_padding",
    "picture padded on another side",
    "Put the picture at the top left and pad right and bottom.",
)
MIRRORED = trap(
    "image_mirrored",
    "picture mirrored or turned",
    "Feed height and width in Caffe's order, (N, C, H, W), without mirroring.",
)
BATCH = trap(
    "batch_order",
    "pictures of the batch in another order",
    "Record the inputs in the order in which they were run.",
)


def _reads_input(look: Look) -> bool:
    bottoms = look.layer.bottoms
    inputs = look.chain.evidence.net.net.inputs
    return look.k == 0 and len(bottoms) == 1 and bottoms[0] in inputs and look.bottoms[0].dim() == 4


@dataclass(frozen=True)
class _Rest:
    """The affine part of a chain from a suspected link on, and what is left of its target."""

    look: Look
    end: int
    rectified: bool

    def __call__(self, x: Tensor) -> Tensor:
        y = self.look.run([x])
        for k in range(self.look.k + 1, self.end):
            y = self.look.chain.step(k, y)
        return y.double()


def _affine_part(look: Look) -> _Rest | None:
    links = look.chain.links
    end = look.k + 1
    while end < len(links) and isinstance(links[end][0], _AFFINE):
        end += 1
    behind = [layer for layer, _ in links[end:]]
    if not behind:
        return _Rest(look, end, False)
    plain = isinstance(behind[0], ReLU) and behind[0].negative_slope == 0
    return (
        _Rest(look, end, True)
        if plain and all(isinstance(layer, ReLU | Dropout) for layer in behind)
        else None
    )


@detector("Convolution", "InnerProduct")
def colours(look: Look) -> Iterator[Variant]:
    """Fit the matrix and offset that turn the recorded colours into those that were fed.

    What the first layer computes is affine in them, so that the fit is a least-squares problem;
    rectified values say nothing and are left out.
    """
    rest = _affine_part(look) if _reads_input(look) else None
    if rest is None or look.recorded is None or look.bottoms[0].shape[1] > 4:
        return
    x = look.bottoms[0]
    channels = x.shape[1]
    base = rest(torch.zeros_like(x))
    if base.shape != look.recorded.shape:
        return
    target = look.recorded.double()
    told = (target > 0) if rest.rectified else torch.ones_like(target, dtype=torch.bool)
    places = told.flatten().nonzero().flatten()
    if len(places) < 50 * channels:
        return
    places = places[:: max(1, len(places) // _SAMPLES)]
    columns = []
    for to in range(channels):
        for source in [*x.unbind(1), torch.ones_like(x[:, 0])]:
            probe = torch.zeros_like(x)
            probe[:, to] = source
            columns.append((rest(probe) - base).flatten()[places])
    system = torch.stack(columns, 1)
    norms = system.norm(dim=0).clamp(min=1e-30)
    wanted = (target - base).flatten()[places]
    solved = torch.linalg.lstsq(system / norms, wanted[:, None], driver="gelsd").solution[:, 0]
    fitted = (solved / norms).reshape(channels, channels + 1)
    matrix, offset = fitted[:, :-1], fitted[:, -1]
    fed = torch.einsum("ts,nshw->nthw", matrix, x.double()) + offset[:, None, None]
    traps, detail = _name_colours(matrix, offset)
    yield Variant(traps, detail, look.run([fed.float()]))


def _name_colours(matrix: Tensor, offset: Tensor) -> tuple[tuple[str, ...], str]:
    """The mistakes that a matrix and an offset of colours amount to."""
    channels = len(offset)
    order = matrix.abs().argmax(1)
    scale = matrix[torch.arange(channels), order]
    rows = ", ".join("(" + ", ".join(f"{v:.4g}" for v in row) + ")" for row in matrix.tolist())
    others = matrix.clone()
    others[torch.arange(channels), order] = 0
    if bool((others.abs().amax(1) > 1e-3 * scale.abs()).any()) or len(set(order.tolist())) < len(
        order
    ):
        return (MIXED,), f"fed = matrix {rows} times the recorded channels"
    traps, details = [], []
    if channels > 1 and order.tolist() == list(reversed(range(channels))):
        traps.append(SWAPPED)
        details.append("the network was fed the recorded channels in reverse order")
    elif order.tolist() != list(range(channels)):
        traps.append(SWAPPED)
        details.append(f"the network was fed the recorded channels in the order {order.tolist()}")
    if bool(((scale - 1).abs() > 1e-3).any()):
        traps.append(DIVIDED)
        details.append(_name_scale(scale))
    shift = offset / scale
    if channels == 3:
        # recorded = raw - MEAN, fed = scale * (raw in order - mean): what was that mean?
        mean = MEAN[order] - shift
        swapped_mean = (mean - MEAN[order]).abs().max(), (mean - MEAN).abs().max()
        if min(swapped_mean) > _MEAN_SLACK:
            traps.append(NO_MEAN)
            if bool((mean.abs() < _MEAN_SLACK).all()):
                details.append("no mean was subtracted from what the network was fed")
            elif bool(((mean - MEAN - MEAN[order]).abs() < _MEAN_SLACK).all()):
                details.append("a mean was subtracted that the recorded input still holds")
            else:
                details.append(f"offset by ({', '.join(f'{v:.4g}' for v in shift.tolist())})")
    elif bool((shift.abs() > 1e-3).any()):
        traps.append(NO_MEAN)
        details.append(f"offset by ({', '.join(f'{v:.4g}' for v in shift.tolist())})")
    if not traps:  # a small offset, or a scale near 1
        traps.append(NO_MEAN)
        details.append(f"offset by ({', '.join(f'{v:.4g}' for v in shift.tolist())})")
    return tuple(traps), "; ".join(details)


def _name_scale(scale: Tensor) -> str:
    if bool(((scale * 255 - 1).abs() < 1e-2).all()):
        return "the network was fed the recorded values divided by 255"
    if bool(((scale / 255 - 1).abs() < 1e-2).all()):
        return "the network was fed the recorded values times 255"
    for deviation in (_DEVIATION, _DEVIATION.flip(0)):
        if len(scale) == 3 and bool(((scale * 255 * deviation - 1).abs() < 1e-2).all()):
            return "divided by 255 and by torchvision's deviations (0.229, 0.224, 0.225)"
    return f"scaled by ({', '.join(f'{v:.4g}' for v in scale.tolist())})"


@detector()
def other_size(look: Look) -> Iterator[Variant]:
    """Which input size explains the recorded shapes? Which way of getting there the values?"""
    size = look.size()
    if not _reads_input(look) or size is None or size == tuple(look.run().shape[2:]):
        return
    x, blob = look.bottoms[0], look.layer.bottoms[0]
    for height, width in _sizes_that_fit(look, blob, tuple(x.shape), size):
        detail = f"{x.shape[2]}x{x.shape[3]} was recorded, {height}x{width} was fed"
        for how, other in _resized(x, height, width):
            yield Variant((SIZE,), f"{detail}: {how}", look.run([other]))
        yield Variant(
            (SIZE,), f"{detail}: the recorded shapes of all blobs are those", None, "likely"
        )


def _sizes_that_fit(
    look: Look, blob: str, given: tuple[int, ...], size: tuple[int, ...]
) -> Iterator[tuple[int, int]]:
    """Input sizes that give the recorded size here and in every other blob."""
    evidence = look.chain.evidence

    def fitting(axis: int) -> list[int]:
        found = []
        for n in range(1, 4 * max(*size, *given[2:]) + 64):
            shape: list[int] = list(given)
            shape[2] = shape[3] = n
            try:
                top = look.layer.shapes([tuple(shape)]).tops[0]
            except CaffeImportError:
                continue
            if len(top) == 4 and top[2 + axis] == size[axis]:
                found.append(n)
        return found[:64]

    heights, widths = fitting(0), fitting(1)
    pairs = (
        [(n, n) for n in heights if n in widths]
        if given[2] == given[3] and size[0] == size[1]
        else [(h, w) for h in heights for w in widths][:256]
    )
    for height, width in pairs:
        inputs: dict[str, Shape] = {
            name: tuple(value.shape)
            for name in evidence.net.inputs
            if (value := evidence.recorded(name)) is not None
        }
        inputs[blob] = (*given[:2], height, width)
        try:
            shapes = infer_net(evidence.net.net, inputs).blobs
        except CaffeImportError:
            continue
        recorded = {
            name: evidence.recorded_shape(name)
            for name in shapes
            if name not in evidence.net.inputs
        }
        if all(shape is None or shape == shapes[name] for name, shape in recorded.items()):
            yield height, width


def _resized(x: Tensor, height: int, width: int) -> Iterator[tuple[str, Tensor]]:
    down, right = height - x.shape[2], width - x.shape[3]
    yield "padded or cropped at the right and bottom", F.pad(x, (0, right, 0, down))
    top, left = down // 2, right // 2
    yield "padded or cropped on all sides", F.pad(x, (left, right - left, top, down - top))
    for corners in (False, True):
        kind = "corners aligned" if corners else "half-pixel centres"
        yield (
            f"resized, bilinear, {kind}",
            F.interpolate(x, (height, width), mode="bilinear", align_corners=corners),
        )


@detector()
def moved_padding(look: Look) -> Iterator[Variant]:
    """The picture inside its padding: at the top left, in the middle, at the bottom right."""
    if not _reads_input(look):
        return
    x = look.bottoms[0]
    filled = (x != 0).any(1).any(0)
    if not filled.any():
        return
    rows, columns = filled.any(1).nonzero().flatten(), filled.any(0).nonzero().flatten()
    top, left = int(rows[0]), int(columns[0])
    down = x.shape[2] - 1 - int(rows[-1]) + top
    right = x.shape[3] - 1 - int(columns[-1]) + left
    places = {
        "at the top left": (0, 0),
        "in the middle": (down // 2, right // 2),
        "in the middle (rounded up)": ((down + 1) // 2, (right + 1) // 2),
        "at the bottom right": (down, right),
    }
    for where, (y, z) in places.items():
        if (y, z) != (top, left):
            moved = x.roll((y - top, z - left), (2, 3))
            yield Variant((PADDED,), f"the picture was fed {where}", look.run([moved]))


@detector()
def mirrored(look: Look) -> Iterator[Variant]:
    """Left and right, top and bottom, height and width exchanged."""
    if not _reads_input(look):
        return
    x = look.bottoms[0]
    turned = {"left and right": x.flip(3), "top and bottom": x.flip(2)}
    if x.shape[2] == x.shape[3]:
        turned["height and width"] = x.transpose(2, 3)
    for what, other in turned.items():
        if not torch.equal(other, x):
            yield Variant((MIRRORED,), f"{what} exchanged", look.run([other.contiguous()]))


@detector()
def batch_order(look: Look) -> Iterator[Variant]:
    """Each picture is looked for among the recorded ones."""
    if not _reads_input(look) or look.recorded is None or look.recorded.shape[0] < 2:
        return
    ours, recorded = look.chain.run(look.k + 1, look.run()), look.recorded
    if ours.shape != recorded.shape:
        return
    flat, wanted = ours.flatten(1).double(), recorded.flatten(1).double()
    order = torch.cdist(wanted, flat).argmin(1)
    if sorted(order.tolist()) == list(range(len(order))) and order.tolist() != sorted(order):
        yield Variant(
            (BATCH,),
            f"the recorded pictures are ours in the order {order.tolist()}",
            look.run([look.bottoms[0][order]]),
        )
