"""Recordings as a network with a mistake in it would have made them."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deeplab_repro import CaffeNet, load_caffe
from deeplab_repro.caffe.layers import CaffeLayer
from deeplab_repro.parity.causes import Cause, likely_causes
from deeplab_repro.parity.comparison import compare_blobs, write_activations
from deeplab_repro.parity.recordings import Recording
from deeplab_repro.parity.tolerances import AGREEMENT
from deeplab_repro.parity.traps import TRAPS
from prototxt_import import read_weights, write_weights

DATA = Path(__file__).parents[1] / "data" / "caffe"

# Layers for `small_net`.
CONVOLUTION = """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 8 kernel_size: 3 pad: 1
                            weight_filler { type: "xavier" } } }"""
RECTIFIED = 'layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }'
POOLING = """
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool"
        pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 } }"""
SECOND = """
layer { name: "second" type: "Convolution" bottom: "conv" top: "second"
        convolution_param { num_output: 8 kernel_size: 3 weight_filler { type: "xavier" } } }"""
NORMALISED = (
    CONVOLUTION
    + """
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv"
        batch_norm_param { use_global_stats: true } }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }"""
    + RECTIFIED
    + SECOND
)


def network(name: str) -> tuple[Path, Path]:
    """Prototxt and weights of a bundled network."""
    return DATA / name / "deploy.prototxt", DATA / name / "weights.caffemodel"


LARGEFOV = network("largefov_v1_w8")
ASPP = network("vgg16_aspp_l_w8")


def picture(*shape: int, seed: int = 0) -> Tensor:
    """Smooth colours minus the mean, (N, 3, H, W), like a photograph's."""
    n, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, height // 8 + 2, width // 8 + 2, generator=generator) * 255
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 255)
    return fine - torch.tensor([104.008, 116.669, 122.675])[:, None, None]


def change(net: CaffeNet, layer: str, forward: Callable[..., Tensor]) -> CaffeLayer:
    """Let a layer compute ``forward(module, *bottoms)``."""
    layers = [item.name for item in net.net.layers]
    module = list(net.layers.children())[layers.index(layer)]
    assert isinstance(module, CaffeLayer)

    def call(self: CaffeLayer, *bottoms: Tensor, inplace: bool = False) -> Tensor:
        return forward(self, *bottoms)

    module.forward = types.MethodType(call, module)  # type: ignore[method-assign]
    return module


def diagnose(
    files: tuple[Path, Path],
    blobs: dict[str, Tensor],
    tmp_path: Path,
    weights: dict | None = None,
) -> list[Cause]:
    """The causes that a comparison of a clean network with ``blobs`` names."""
    write_activations(tmp_path / "a.h5", blobs)
    recording = Recording("spoilt", tmp_path / "a.h5", files[1], files[0])
    comparison = compare_blobs(load_caffe(*files), recording, AGREEMENT["caffe"])
    return likely_causes(comparison, read_weights(files[1]) if weights is None else weights)


def names(causes: list[Cause]) -> list[str]:
    """The mistakes that are held responsible, by id."""
    return [cause.trap.id for cause in causes]


@torch.inference_mode()
def blobs_of(
    files: tuple[Path, Path], x: Tensor, *changes: tuple[str, Callable[..., Tensor]]
) -> dict[str, Tensor]:
    """What the network computes with some layers changed: (layer, forward) pairs."""
    net = load_caffe(*files)
    for layer, forward in changes:
        change(net, layer, forward)
    return dict(net.blobs(data=x))


def expect(causes: list[Cause], trap: str, layer: str | None = None, sure: str = "proved") -> None:
    """Just this cause, at this layer, with its evidence and advice in words."""
    assert names(causes) == [trap], causes
    (cause,) = causes
    assert cause.sure == sure, cause
    assert layer is None or cause.layer == layer, cause
    assert cause.evidence, cause
    assert TRAPS[trap].advice == cause.as_json()["advice"], cause


def small_net(folder: Path, layers: str) -> tuple[Path, Path]:
    """A network of these layers, its weights drawn by the fillers, statistics of a short run."""
    prototxt, weights = folder / "small.prototxt", folder / "small.caffemodel"
    prototxt.write_text('input: "data" input_shape { dim: 1 dim: 3 dim: 33 dim: 33 }' + layers)
    torch.manual_seed(0)
    net = load_caffe(prototxt)
    blobs = {n: [b.detach().numpy() for b in bs] for n, bs in net.params.items()}
    if "bn" in blobs:
        draw = np.random.default_rng(0)
        factor = np.float32([250.0])  # as after many batches
        blobs["bn"] = [
            np.float32(draw.normal(size=8) * 20) * factor,
            np.float32(draw.uniform(0.01, 0.5, size=8)) * factor,
            factor,
        ]
        blobs["scale"] = [np.float32(draw.uniform(0.5, 2, 8)), np.float32(draw.normal(size=8))]
    write_weights(weights, blobs, net.net)
    return prototxt, weights
