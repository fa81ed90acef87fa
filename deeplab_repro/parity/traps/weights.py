"""Mistakes in the weights: another copy, another layer's, turned, or altogether others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deeplab_repro.parity.differences import without_leading_ones
from deeplab_repro.parity.traps.core import Look, Variant, detector, trap
from prototxt_import import Shape, infer_net
from prototxt_import.layers import BatchNorm, Bias, Convolution, Dropout, InnerProduct, ReLU, Scale
from prototxt_import.matching import shared_parameters

#: Layers of the same shapes that are tried.
_MOST_LAYERS: Final = 60
#: Unknown weights that are solved for; beyond it takes too long.
_MOST_UNKNOWNS: Final = 1500
#: What is left of a solvable system in float32, and far from what is left of an unsolvable one.
_SOLVED: Final = 1e-4

COPY = trap(
    "wrong_copy",
    "another copy of a shared parameter",
    "The file's copies of a shared parameter differ, and the one that comes last in the file "
    "counts, as in Caffe.",
)
OTHER_LAYER = trap(
    "other_layer_weights",
    "the weights of another layer",
    "Match weights by the layer's name, not by their order or shape.",
)
TURNED = trap(
    "weights_transposed",
    "weights transposed or turned",
    "Caffe keeps (out, in, height, width), for InnerProduct (out, in), and does not turn the "
    "kernel; other frameworks do.",
)
NO_BIAS = trap("bias_missing", "bias left out", "Add the layer's second blob.")
OTHERS = trap(
    "other_weights",
    "other weights",
    "The recording was made with other weights than this file: another snapshot, or layers that "
    "kept their initial values because their names did not match.",
)


@detector("Convolution", "InnerProduct", "Deconvolution", "Scale", "PReLU", "Bias")
def bias_missing(look: Look) -> Iterator[Variant]:
    """Zeros for the last blob."""
    blobs = look.module.blobs
    if len(blobs) > 1:
        yield Variant(
            (NO_BIAS,), "zero", look.run(blobs=[*blobs[:-1], torch.zeros_like(blobs[-1])])
        )


@detector("Convolution", "InnerProduct", "Deconvolution")
def weights_transposed(look: Look) -> Iterator[Variant]:
    """The ways in which the axes of weights get mixed up."""
    weight, *bias = (blob.detach() for blob in look.module.blobs)
    for how, other in _turned(weight):
        if other.shape == weight.shape and not torch.equal(other, weight):
            yield Variant((TURNED,), how, look.run(blobs=[other.contiguous(), *bias]))


def _turned(weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    plane = weight.reshape(weight.shape[-2:]) if weight[0].numel() == weight.shape[-1] else None
    if weight.dim() == 4 and plane is None:
        yield "kernel's height and width exchanged", weight.transpose(2, 3)
        yield "kernel turned by 180 degrees", weight.flip(2, 3)
        out, channels, height, width = weight.shape
        yield "outputs and inputs exchanged", weight.transpose(0, 1)
        yield (
            "read as (height, width, in, out)",
            weight.reshape(height, width, channels, out).permute(3, 2, 0, 1),
        )
        yield (
            "read as (in, out, height, width)",
            weight.reshape(channels, out, height, width).transpose(0, 1),
        )
    elif plane is not None:
        rows, columns = plane.shape
        yield "outputs and inputs exchanged", plane.t().reshape(weight.shape)
        yield "read as (in, out)", plane.reshape(columns, rows).t().reshape(weight.shape)


@detector("InnerProduct")
def flattened_otherwise(look: Look) -> Iterator[Variant]:
    """Channels last before the axes are made one."""
    x = look.bottoms[0]
    if x.dim() == 4 and x.shape[2] * x.shape[3] > 1:
        other = x.permute(0, 2, 3, 1).reshape(x.shape)
        yield Variant((TURNED,), "bottom flattened as (height, width, channels)", look.run([other]))


@detector()
def weights_of_another_layer(look: Look) -> Iterator[Variant]:
    """Each layer of the file whose blobs have these shapes; those it shares with come first."""
    evidence, own = look.chain.evidence, look.module.blobs
    if not own:
        return
    shared = shared_parameters(infer_net(evidence.net.net))
    owner = shared.get((look.layer.name, 0), (look.layer.name, 0))
    family = {name for (name, _), first in shared.items() if first == owner} | {owner[0]}
    candidates = []
    for name, blobs in evidence.weights.items():
        others = [np.asarray(blob, np.float32) for blob in blobs]
        if _sizes(others) != _sizes(own):
            continue
        values = [
            torch.from_numpy(other).reshape(blob.shape)
            for other, blob in zip(others, own, strict=True)
        ]
        if not all(torch.equal(a, b) for a, b in zip(values, own, strict=True)):
            candidates.append((name not in family, name, values))
    for is_stranger, name, values in sorted(candidates, key=lambda c: c[0])[:_MOST_LAYERS]:
        what = f"the weights of '{name}'" if is_stranger else f"the file's copy of '{name}'"
        yield Variant((OTHER_LAYER if is_stranger else COPY,), what, look.run(blobs=values))


def _sizes(blobs: Sequence[np.ndarray[Any, Any] | Tensor]) -> list[Shape]:
    return [without_leading_ones(tuple(blob.shape)) for blob in blobs]


@detector("Convolution", "InnerProduct")
def other_weights(look: Look) -> Iterator[Variant]:
    """Is there any filter that turns the recorded bottom into the recorded top?

    A channel of the top has fewer unknown weights than pixels: if a part of the pixels determines
    a filter that also gives the others, the layer was computed, with other weights.
    """
    recorded, x = look.recorded, look.bottoms[0]
    links = look.chain.links[look.k + 1 :]
    if recorded is None or x.dim() not in (2, 4) or look.chain.run().shape != recorded.shape:
        return
    if look.chain.evidence.read_otherwise(look.chain.blob):
        return  # what reads it would differ too
    if any(not isinstance(layer, BatchNorm | Scale | Bias | ReLU | Dropout) for layer, _ in links):
        return
    rectified = any(isinstance(layer, ReLU) for layer, _ in links)
    rows = _rows(look, x)
    if rows is None:
        return
    tops = recorded.movedim(1, -1).reshape(-1, recorded.shape[1]).double()
    live = (tops != 0).sum(0) if rectified else torch.full(tops.shape[1:], len(tops))
    channel = int(live.argmax())
    places = (tops[:, channel] > 0).nonzero().flatten() if rectified else torch.arange(len(tops))
    unknowns = rows.shape[1] + 1
    if unknowns > _MOST_UNKNOWNS or len(places) < unknowns + max(20, unknowns // 4):
        return
    generator = torch.Generator().manual_seed(0)
    places = places[torch.randperm(len(places), generator=generator)[: 3 * unknowns + 100]]
    system = torch.cat([rows[places].double(), torch.ones(len(places), 1).double()], 1)
    wanted = tops[places, channel]
    split = unknowns + (len(places) - unknowns) // 2
    solved = torch.linalg.lstsq(system[:split], wanted[:split, None], driver="gelsd").solution
    rest = system[split:] @ solved[:, 0] - wanted[split:]
    left = float(rest.norm() / wanted[split:].norm().clamp(min=1e-30))
    if left < _SOLVED:
        detail = (
            f"a filter fitted to {split} recorded pixels of channel {channel} gives the other "
            f"{len(places) - split} to rel {left:.0e}, and it is not this file's"
        )
        yield Variant((OTHERS,), detail, None, "proved")


def _rows(look: Look, x: Tensor) -> Tensor | None:
    """(positions, values under the window), for the first group of channels."""
    layer = look.layer
    if isinstance(layer, InnerProduct):
        return None if x.dim() != 2 else x
    assert isinstance(layer, Convolution)
    if x.dim() != 4 or layer.group != 1:
        return None
    window = layer.window_over(2)
    if x.shape[1] * window.kernel[0] * window.kernel[1] > _MOST_UNKNOWNS:
        return None
    columns = F.unfold(x, window.kernel, window.dilation, window.pad, window.stride)
    return columns.transpose(1, 2).reshape(-1, columns.shape[1])
