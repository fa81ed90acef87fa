"""Recordings as a network with a mistake in it would have made them."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path

import torch

from deeplab_repro import CaffeNet, load_caffe
from deeplab_repro.caffe.layers import CaffeLayer
from deeplab_repro.parity.causes import Cause, likely_causes
from deeplab_repro.parity.comparison import compare_blobs, write_activations
from deeplab_repro.parity.recordings import Recording
from deeplab_repro.parity.tolerances import AGREEMENT
from prototxt_import import read_weights

DATA = Path(__file__).parents[1] / "data" / "caffe"


def network(name: str) -> tuple[Path, Path]:
    """Prototxt and weights of a bundled network."""
    return DATA / name / "deploy.prototxt", DATA / name / "weights.caffemodel"


def picture(*shape: int, seed: int = 0) -> torch.Tensor:
    """Smooth colours minus the mean, (N, 3, H, W), like a photograph's."""
    n, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, height // 8 + 2, width // 8 + 2, generator=generator) * 255
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 255)
    return fine - torch.tensor([104.008, 116.669, 122.675])[:, None, None]


def change(net: CaffeNet, layer: str, forward: Callable[..., torch.Tensor]) -> CaffeLayer:
    """Let a layer compute ``forward(module, *bottoms)``."""
    names = [item.name for item in net.net.layers]
    module = list(net.layers.children())[names.index(layer)]
    assert isinstance(module, CaffeLayer)

    def call(self: CaffeLayer, *bottoms: torch.Tensor, inplace: bool = False) -> torch.Tensor:
        return forward(self, *bottoms)

    module.forward = types.MethodType(call, module)  # type: ignore[method-assign]
    return module


def diagnose(
    files: tuple[Path, Path],
    blobs: dict[str, torch.Tensor],
    tmp_path: Path,
    weights: dict | None = None,
) -> list[Cause]:
    """The causes that a comparison of a clean network with ``blobs`` names."""
    write_activations(tmp_path / "a.h5", blobs)
    recording = Recording("spoilt", tmp_path / "a.h5", files[1], files[0])
    comparison = compare_blobs(load_caffe(*files), recording, AGREEMENT["caffe"])
    return likely_causes(comparison, read_weights(files[1]) if weights is None else weights)
