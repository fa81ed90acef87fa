"""The dense CRFs that benchmarks time: sizes, parameters, energies, features and bytes.

Needs torch and numpy alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deeplab_repro.crf import CRFParams, dense_crf
from deeplab_repro.crf.features import bilateral_features, spatial_features
from deeplab_repro.ops import reference

ITERATIONS = 10
#: Mean difference of marginals that is rounding.
LIMIT = 1e-5


class Problem(NamedTuple):
    """Inputs of one case."""

    unary: Tensor  # (N, C, H, W) float32
    image: Tensor  # (N, 3, H, W) uint8
    params: CRFParams


def crf_params(bi_xy_std: float, bi_rgb_std: float, pos_xy_std: float = 3) -> CRFParams:
    return CRFParams(ITERATIONS, 3, pos_xy_std, 4, bi_xy_std, bi_rgb_std)


def energies(
    random: np.random.Generator, batch: int, labels: int, width: int, height: int
) -> Tensor:
    """(N, C, H, W): smooth random ones."""
    coarse = torch.from_numpy(random.normal(0, 4, (batch, labels, 12, 16)).astype(np.float32))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").contiguous()


def features(given: Problem) -> list[Tensor]:
    """(N, points, d) of the spatial and the bilateral kernel; the spatial one is of one picture."""
    height, width = given.unary.shape[2:]
    p = given.params
    spatial = spatial_features(height, width, p.pos_xy_std, like=given.unary)
    bilateral = bilateral_features(given.image, p.bi_xy_std, p.bi_rgb_std, dtype=given.unary.dtype)
    return [spatial.flatten(1).t()[None].contiguous(), bilateral.flatten(2).mT.contiguous()]


def corner(given: Problem, height: int = 120, width: int = 160) -> Problem:
    """The first picture's upper left corner, small enough for the reference."""
    unary, image = (t[:1, :, :height, :width].contiguous() for t in given[:2])
    return Problem(unary, image, given.params)


def expected(part: Problem) -> Tensor:
    """(N, C, points) marginals by the torch reference, on the CPU."""
    part = Problem(part.unary.cpu(), part.image.cpu(), part.params)
    kernels = [reference.permutohedral_build(points) for points in features(part)]
    weights = part.unary.new_tensor(part.params.weights)
    return reference.mean_field(
        part.unary.flatten(2), kernels, weights, [None] * 2, ["after"] * 2, iterations=ITERATIONS
    )


def whole_call(given: Problem) -> Tensor:
    """(N, H, W) labels: lattices, iterations and the first maximum."""
    with torch.inference_mode():
        return dense_crf(given.unary, given.image, given.params, output="labels")


def traffic(given: Problem, vertices: list[int]) -> dict[str, float]:
    """Bytes of one iteration: from memory at the least, and rows that the cores load and store.

    vertices: of the spatial and of the bilateral lattice, of all pictures.
    """
    batch, labels, height, width = given.unary.shape
    points, row = batch * height * width, 4 * (labels if labels <= 4 else -(-labels // 8) * 8)
    compulsory, rows = 3.0 * points * labels * 4, 0.0
    for d, count in zip((2, 5), vertices, strict=True):
        compulsory += 16 * points * (d + 1) + (2 + 2 * (d + 1)) * count * row + 8 * count * (d + 1)
        rows += 3 * points * (d + 1) * row + 4 * count * (d + 1) * row
    return {"compulsory": compulsory, "rows": rows}
