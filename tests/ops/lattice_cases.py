"""Pictures, features, oracles and recordings of the lattice and mean field tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from deeplab_repro.ops import Lattice, reference

DATA = Path(__file__).parents[1] / "data" / "lattice"

# (batch, points, dimension, spread of the features): around blocks of 16 points, strips of 2048 and
# more points, every specialised dimension, and more vertices than points.
SHAPES = {
    "one point": (1, 1, 2, 1.0),
    "one dimension": (2, 37, 1, 5.0),
    "below a block": (1, 15, 2, 2.0),
    "above a block": (1, 17, 5, 2.0),
    "batch across blocks": (3, 21, 5, 1.0),
    "three dimensions": (2, 100, 3, 2.0),
    "four dimensions": (1, 64, 4, 2.0),
    "all alike": (1, 300, 5, 0.0),
    "more vertices than points": (1, 200, 5, 40.0),
    "keys wider than 64 bits": (2, 50, 16, 90.0),
    "several strips": (1, 5000, 2, 20.0),
    "strips across pictures": (3, 2500, 5, 3.0),
    "no points": (2, 0, 5, 1.0),
    "no pictures": (0, 7, 2, 1.0),
}


def random_features(shape: tuple, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Features (B, P, d), uniform within the spread, with a drift as along a picture."""
    batch, points, d, spread = shape
    generator = torch.Generator().manual_seed(points + d)
    noise = torch.rand(batch, points, d, generator=generator, dtype=dtype) - 0.5
    drift = torch.linspace(0, 1, points, dtype=dtype)[:, None]
    return (noise * spread + drift * spread).clamp(-500, 500)


def random_lattice(shape: tuple, dtype: torch.dtype = torch.float32) -> Lattice:
    """The reference's lattice of random_features."""
    return Lattice(*reference.permutohedral_build(random_features(shape, dtype)))


def image_features(image: np.ndarray, stds: tuple, dtype: torch.dtype = torch.float32):
    """Features (1, H*W, 2 or 5) of an RGB picture: x, y, r, g, b divided by stds."""
    rows, columns = np.indices(image.shape[:2])
    planes = [columns, rows, *np.moveaxis(image, -1, 0)][: len(stds)]
    stacked = [
        torch.tensor(p, dtype=dtype) / torch.tensor(s, dtype=dtype)
        for p, s in zip(planes, stds, strict=True)
    ]
    return torch.stack(stacked, -1).reshape(1, -1, len(stds))


def recorded(name: str) -> dict[str, np.ndarray]:
    """A recording of tests/make_lattice_data.py."""
    with np.load(DATA / f"{name}.npz") as data:
        return dict(data)


def kernel_stds(params) -> dict[str, tuple]:
    """Standard deviations of the spatial (g) and the bilateral kernel (b)."""
    sx, sy, _, bx, by, br, bg, bb = params[:8].tolist()
    return {"g": (sx, sy), "b": (bx, by, br, bg, bb)}


def gaussian_sums(features: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The sum that a lattice approximates, over all pairs of points (P, d), (P, V)."""
    distance = torch.cdist(features.double(), features.double())
    return torch.exp(-0.5 * distance**2) @ values.double()


def filter_matrix(lattice: Lattice, reverse: bool = False) -> np.ndarray:
    """(P, P) of one picture in float64, point by point and vertex by vertex."""
    vertex, weight, neighbours = (t.numpy() for t in lattice[:3])
    _, points, corners = vertex.shape
    axes, vertices, _ = neighbours.shape
    matrix = np.zeros((points, points))
    for source in range(points):
        table = np.zeros(vertices)
        for c in range(corners):
            table[vertex[0, source, c]] += weight[0, source, c]
        for axis in reversed(range(axes)) if reverse else range(axes):
            old = table.copy()
            for v in range(vertices):
                for n in neighbours[axis, v]:
                    table[v] += 0.5 * old[n] if n >= 0 else 0
        for target in range(points):
            matrix[target, source] = sum(
                weight[0, target, c] * table[vertex[0, target, c]] for c in range(corners)
            ) / (1 + 2.0 ** (1 - axes))
    return matrix
