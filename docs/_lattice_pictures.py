"""The pictures and the table of lattice.md."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import Final

import numpy as np
import torch
from _tour_pictures import PARAMS, horse
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from deeplab_repro.crf import CRFParams
from deeplab_repro.crf.features import bilateral_features, spatial_features
from deeplab_repro.ops import permutohedral_build, permutohedral_filter
from deeplab_repro.ops.permutohedral import Lattice

Points = NDArray[np.float64]
#: Of corners of remainder 0, 1, 2.
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73")
_GREY: Final = "#bbbbbb"
_POINT: Final = (0.55, 0.35)


@cache
def _plane(reach: float) -> tuple[Lattice, Points, Points]:
    """The lattice of a dense square of points, the points, and where its vertices lie.

    A point is the mean of its corners with its weights, so the corners follow from the points.
    """
    axis = torch.linspace(-reach, reach, 121, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)
    lattice = permutohedral_build(points)
    return lattice, points.numpy(), _vertices(lattice, points.numpy())


def _vertices(lattice: Lattice, points: Points) -> Points:
    vertex, weight = lattice.vertex[0].long(), lattice.weight[0]
    mixing = torch.zeros(len(points), lattice.neighbours.shape[1], dtype=torch.float64)
    mixing.scatter_(1, vertex, weight)
    # A little towards 0 where hardly a point has a share of a vertex.
    solved = torch.linalg.lstsq(mixing, torch.from_numpy(points), driver="gelsd").solution
    places: Points = solved.numpy()
    return places


def _edges(axes: Axes, lattice: Lattice, places: Points, reach: float) -> None:
    """The sides of the triangles, as far as they are seen."""
    pairs = torch.cat([lattice.vertex[0][:, [a, b]] for a, b in ((0, 1), (0, 2), (1, 2))])
    sides = places[np.unique(np.sort(pairs.numpy(), -1), axis=0)]
    seen = (np.abs(sides) <= reach + 1).all((1, 2))
    axes.add_collection(LineCollection(sides[seen], colors=_GREY, linewidths=0.8, zorder=0))


def _axes(axes: Axes, reach: float, title: str) -> None:
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-reach, reach)
    axes.set_aspect("equal")
    axes.set_title(title, fontsize=10)
    axes.tick_params(labelsize=8)


def simplex() -> Figure:
    """The triangles of two features, and a point in one of them."""
    lattice, _, places = _plane(3.0)
    figure = Figure(figsize=(9, 4.9), layout="constrained")
    wide, near = figure.subplots(1, 2)
    remainder = _remainders(lattice)
    one = torch.tensor([_POINT], dtype=torch.float64)
    own = permutohedral_build(one)
    weights = own.weight[0, 0].numpy()
    corners = _corners_of(_POINT)
    for axes in (wide, near):
        _edges(axes, lattice, places, 2.4)
        for r, colour in enumerate(COLOURS):
            axes.plot(*places[remainder == r].T, "o", color=colour, ms=5, label=f"remainder {r}")
        axes.fill(*places[corners].T, color="#f0e442", alpha=0.5, linewidth=0)
        axes.plot(*_POINT, "k*", ms=9)
    _axes(wide, 2.4, "vertices in the space of two features")
    wide.set_xlabel("feature 0, in standard deviations", fontsize=9)
    wide.set_ylabel("feature 1", fontsize=9)
    wide.legend(fontsize=8, loc="lower right", framealpha=1)
    _axes(near, 2.4, "the simplex around a point, and its three weights")
    middle = places[corners].mean(0)
    near.set_xlim(middle[0] - 1.2, middle[0] + 1.2)
    near.set_ylim(middle[1] - 1.2, middle[1] + 1.2)
    for r, corner in enumerate(corners):
        near.plot([_POINT[0], places[corner, 0]], [_POINT[1], places[corner, 1]], "k:", lw=1)
        outwards = places[corner] + 0.28 * (places[corner] - middle)
        near.text(*outwards, f"{weights[r]:.3f}", ha="center", va="center", fontsize=10)
    assert np.allclose(weights @ places[corners], _POINT)
    return figure


def _remainders(lattice: Lattice) -> NDArray[np.int64]:
    """Of each vertex: corner r of a point has remainder r."""
    found = np.full(lattice.neighbours.shape[1], -1)
    for r in range(3):
        found[lattice.vertex[0, :, r].numpy()] = r
    return found


def _corners_of(point: tuple[float, float]) -> NDArray[np.int64]:
    """The vertices of the plane around a point, by remainder."""
    lattice, points, _ = _plane(3.0)
    nearest = np.abs(points - point).sum(1).argmin()
    corners: NDArray[np.int64] = lattice.vertex[0, nearest].numpy()
    return corners


def blur() -> Figure:
    """What a value of 1 at one vertex becomes, axis by axis."""
    lattice, _, places = _plane(3.0)
    middle = int(np.abs(places).sum(1).argmin())
    table = torch.zeros(len(places) + 1, dtype=torch.float64)  # the last row: no neighbour
    table[middle] = 1
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axis, axes in enumerate(figure.subplots(1, 3)):
        before, after = lattice.neighbours[axis].long().unbind(1)
        blurred = table[:-1] + 0.5 * (table[before] + table[after])
        step = places[after[middle]] - places[middle]
        _edges(axes, lattice, places, 2.4)
        for v in blurred.nonzero().flatten().tolist():
            value = Fraction(float(blurred[v]))
            axes.plot(*places[v], "o", color="#9ccbe8", ms=17)
            axes.text(*places[v], f"{value}", ha="center", va="center", fontsize=8)
        for start in table[:-1].nonzero().flatten().tolist():
            for sign in (-1, 1):
                axes.annotate(
                    "",
                    places[start] + 0.8 * sign * step,
                    places[start],
                    arrowprops={"arrowstyle": "->", "color": COLOURS[1]},
                    zorder=1,
                )
        table = torch.cat([blurred, table[-1:]])
        _axes(axes, 2.4, f"after axis {axis}")
        axes.set_xticks([])
        axes.set_yticks([])
    return figure


@cache
def _response(point: tuple[float, float], side: int, reach: float) -> Points:
    """(side, side): what one value of 1 at a point becomes on a square of points around it."""
    axis = torch.linspace(-reach, reach, side, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)
    lattice = permutohedral_build(points + torch.tensor(point, dtype=torch.float64))
    values = torch.zeros(len(points), 1, dtype=torch.float64)
    values[len(points) // 2] = 1
    response: Points = permutohedral_filter(lattice, values).reshape(side, side).numpy()
    return response


def _gaussian(side: int, reach: float) -> Points:
    axis = np.linspace(-reach, reach, side)
    gaussian: Points = np.exp(-0.5 * (axis**2 + axis[:, None] ** 2))
    return gaussian


def _mean_response(side: int, reach: float) -> Points:
    """The response over points that lie anywhere in their simplex."""
    random = np.random.default_rng(0)
    places = random.uniform(0, 20, (64, 2))
    return np.mean([_response((float(x), float(y)), side, reach) for x, y in places], 0)


def impulse() -> Figure:
    """The response to one point beside the true Gaussian."""
    side, reach = 121, 3.6
    axis = np.linspace(-reach, reach, side)
    corner, centre = _response((0.0, 0.0), side, reach), _response(_POINT, side, reach)
    mean, true = _mean_response(side, reach), _gaussian(side, reach)
    pictures_of = (corner, centre, mean, true, mean - true)
    figure = Figure(figsize=(7.8, 4.8), layout="constrained")
    pictures = figure.subplots(2, 3)
    for axes, values, title in zip(
        pictures.flat,
        pictures_of,
        (
            "a point on a vertex",
            "a point within a simplex",
            "mean over 64 points",
            "the Gaussian",
            "mean minus Gaussian",
        ),
        strict=False,
    ):
        signed = values is pictures_of[-1]
        image = axes.imshow(
            values,
            extent=(-reach, reach, reach, -reach),
            cmap="RdBu_r" if signed else "viridis",
            vmin=-0.25 if signed else 0,
            vmax=0.25 if signed else 1,
        )
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("feature 0", fontsize=8)
        axes.set_ylabel("feature 1", fontsize=8)
        axes.tick_params(labelsize=8)
        figure.colorbar(image, ax=axes, shrink=0.75)
    cut = pictures[1, 2]
    cut.plot(axis, true[side // 2], color="black", label="Gaussian")
    for values, colour, name in zip(
        (corner, centre, mean), COLOURS, ("on a vertex", "within", "mean"), strict=True
    ):
        cut.plot(axis, values[side // 2], color=colour, label=name, linewidth=1.2)
    cut.set_title("along feature 0", fontsize=10)
    cut.legend(
        fontsize=7, loc="upper center", ncols=2, frameon=False, handlelength=1, columnspacing=1
    )
    cut.set_xlim(-reach, reach)
    cut.set_ylim(top=1.55)  # room for the legend
    cut.set_xlabel("feature 0", fontsize=8)
    cut.set_ylabel("response", fontsize=8)
    cut.set_box_aspect(0.9)
    cut.tick_params(labelsize=8)
    return figure


def table() -> str:
    """Sizes of lattices and operations of a filter, for a drawn picture with 21 labels."""
    picture = torch.from_numpy(horse().picture[..., ::-1].copy()).permute(2, 0, 1)[None]
    height, width = picture.shape[-2:]
    points, labels = height * width, 21
    params = CRFParams.named("deeplab_largefov")
    lines = [
        "| kernel | features d | vertices | vertices a pixel | multiply-adds of splat and slice |"
        " of the blur | of the sum over all pairs |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]

    def bilateral(params: CRFParams) -> torch.Tensor:
        stds = params.bi_xy_std, params.bi_rgb_std
        return bilateral_features(picture, *stds, dtype=torch.float32)[0]

    named = (
        ("spatial, 3 pixels", spatial_features(height, width, params.pos_xy_std)),
        ("bilateral, 121 pixels and 5 grey levels", bilateral(params)),
        ("bilateral, 25 pixels and 6 grey levels", bilateral(PARAMS)),
    )
    assert (params.bi_xy_std, params.bi_rgb_std) == (121, 5)
    assert (PARAMS.bi_xy_std, PARAMS.bi_rgb_std) == (25, 6)
    for name, features in named:
        d = len(features)
        lattice = permutohedral_build(features.reshape(d, -1).T.contiguous())
        vertices = lattice.neighbours.shape[1]
        spread, blurred = 2 * points * (d + 1) * labels, vertices * (d + 1) * labels
        lines.append(
            f"| {name} | {d} | {vertices:,} | {vertices / points:.2f} | {spread / 1e6:.1f} million"
            f" | {blurred / 1e6:.1f} million | {points**2 * labels / 1e9:.0f} billion |"
        )
    side, reach = 121, 6.0
    mean, axis = _mean_response(side, reach), np.linspace(-reach, reach, side)
    std = float(np.sqrt((mean.sum(0) * axis**2).sum() / mean.sum()))
    total = float(mean.sum() / _gaussian(side, reach).sum())
    lines += [
        "",
        f"The picture has {width} x {height} pixels. At two features the mean response of 64 points"
        f" has a standard deviation of {std:.3f}, is {mean.max():.3f} at its middle, and its sum is"
        f" {total:.3f} of the sum of a Gaussian of height 1.",
    ]
    return "\n".join(lines)
