"""What each Caffe layer computes, said again in plain numpy, float64, loops where that is clearest.

Written from the C++ of the three programs and from nothing of ours: defaults, shapes and gradients
are stated here a second time.  An oracle takes a :class:`Call` and returns its tops and a function
from top diffs to (bottom diffs, parameter diffs), which is Caffe's ``Backward_cpu``; None stands
for a diff that Caffe does not write.  ``Forward`` alone is enough for layers without one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Diffs = list[Any]
Backward = Callable[[Diffs], tuple[Diffs, Diffs]]
Answer = tuple[list[Array], Backward | None]


@dataclass
class Call:
    """One layer's turn.

    p: the fields of its parameter message that the prototxt states; bottoms, params: float64;
    state: what a layer keeps from pass to pass besides its blobs.
    """

    type: str
    bottoms: list[Array]
    params: list[Array] = field(default_factory=list)
    p: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    tops: int = 1
    dialect: str = "bvlc"
    phase: str = "TEST"
    state: dict[str, Any] = field(default_factory=dict)


ORACLES: dict[str, Callable[[Call], Answer]] = {}


def oracle(*types: str) -> Callable[[Callable[[Call], Answer]], Callable[[Call], Answer]]:
    """Enter a function into :data:`ORACLES`."""

    def enter(function: Callable[[Call], Answer]) -> Callable[[Call], Answer]:
        ORACLES.update(dict.fromkeys(types, function))
        return function

    return enter


def legacy_shape(x: Array) -> tuple[int, int, int, int]:
    """blob.hpp, LegacyShape: num, channels, height, width."""
    num, channels, height, width = (*x.shape, 1, 1, 1, 1)[:4]
    return num, channels, height, width


# ------------------------------------------------------------------ one value at a time


def _each(value: Callable[[float], float], slope: Callable[[float, float], float], x: Array
          ) -> Answer:  # fmt: skip
    """``value(x)``, and ``slope(x, y)`` to multiply the top diff by."""
    y = np.array([value(v) for v in x.ravel()], dtype=np.float64).reshape(x.shape)
    slopes = np.array([slope(a, b) for a, b in zip(x.ravel(), y.ravel(), strict=True)])
    return [y], lambda d: ([d[0] * slopes.reshape(x.shape)], [])


@oracle("AbsVal")
def absval(c: Call) -> Answer:
    return _each(abs, lambda x, y: float(np.sign(x)), c.bottoms[0])


@oracle("BNLL")
def bnll(c: Call) -> Answer:
    def value(x: float) -> float:
        return x + math.log(1 + math.exp(-x)) if x > 0 else math.log(1 + math.exp(x))

    def slope(x: float, y: float) -> float:
        e = math.exp(min(x, 50.0))
        return e / (e + 1)

    return _each(value, slope, c.bottoms[0])


@oracle("Clip")
def clip(c: Call) -> Answer:
    low, high = c.p["min"], c.p["max"]
    return _each(lambda x: max(low, min(x, high)), lambda x, y: float(low <= x <= high),
                 c.bottoms[0])  # fmt: skip


@oracle("Dropout")
def dropout(c: Call) -> Answer:
    assert c.phase == "TEST"
    return _each(lambda x: x, lambda x, y: 1.0, c.bottoms[0])


@oracle("ELU")
def elu(c: Call) -> Answer:
    alpha = c.p.get("alpha", 1.0)
    return _each(
        lambda x: max(x, 0.0) + alpha * (math.exp(min(x, 0.0)) - 1),
        lambda x, y: 1.0 if x > 0 else alpha + y,
        c.bottoms[0],
    )


@oracle("Exp")
def exp(c: Call) -> Answer:
    base, scale, shift = c.p.get("base", -1.0), c.p.get("scale", 1.0), c.p.get("shift", 0.0)
    log_base = 1.0 if base == -1 else math.log(base)
    inner = log_base * scale
    outer = 1.0 if shift == 0 else math.exp(shift) if base == -1 else base**shift
    if c.dialect == "dl2" and base == -1 and shift:
        outer = (-1.0) ** shift if shift == int(shift) else math.nan
    return _each(lambda x: outer * math.exp(inner * x), lambda x, y: y * inner, c.bottoms[0])


@oracle("Log")
def log(c: Call) -> Answer:
    base, scale, shift = c.p.get("base", -1.0), c.p.get("scale", 1.0), c.p.get("shift", 0.0)
    log_base = 1.0 if base == -1 else math.log(base)
    return _each(
        lambda x: math.log(scale * x + shift) / log_base,
        lambda x, y: (scale / log_base) / (scale * x + shift),
        c.bottoms[0],
    )


@oracle("Power")
def power(c: Call) -> Answer:
    n, scale, shift = c.p.get("power", 1.0), c.p.get("scale", 1.0), c.p.get("shift", 0.0)
    if n * scale == 0:
        constant = 1.0 if n == 0 else shift**n
        return _each(lambda x: constant, lambda x, y: 0.0, c.bottoms[0])

    def slope(x: float, y: float) -> float:
        if n == 1:
            return n * scale
        if n == 2:
            return n * scale * (scale * x + shift)
        return n * scale * y / (scale * x + shift)

    return _each(lambda x: (scale * x + shift) ** n, slope, c.bottoms[0])


@oracle("PReLU")
def prelu(c: Call) -> Answer:
    x = c.bottoms[0]
    slopes = c.params[0]
    shared = c.p.get("channel_shared", False)
    y, slope = np.zeros_like(x), np.zeros_like(x)
    for at in np.ndindex(*x.shape):
        a = float(slopes[()] if shared else slopes[at[1]])
        y[at] = max(x[at], 0) + a * min(x[at], 0)
        slope[at] = float(x[at] > 0) + a * float(x[at] <= 0)

    def backward(d: Diffs) -> tuple[Diffs, Diffs]:
        grad = np.zeros_like(slopes)
        for at in np.ndindex(*x.shape):
            if x[at] <= 0:
                grad[() if shared else (at[1],)] += d[0][at] * x[at]
        return [d[0] * slope], [grad]

    return [y], backward


@oracle("ReLU")
def relu(c: Call) -> Answer:
    a = c.p.get("negative_slope", 0.0)
    return _each(lambda x: max(x, 0.0) + a * min(x, 0.0), lambda x, y: (x > 0) + a * (x <= 0),
                 c.bottoms[0])  # fmt: skip


@oracle("Sigmoid")
def sigmoid(c: Call) -> Answer:
    return _each(lambda x: 1 / (1 + math.exp(-x)), lambda x, y: y * (1 - y), c.bottoms[0])


@oracle("Swish")
def swish(c: Call) -> Answer:
    beta = c.p.get("beta", 1.0)

    def gate(x: float) -> float:
        return 1 / (1 + math.exp(-beta * x))

    return _each(
        lambda x: x * gate(x), lambda x, y: beta * y + gate(x) * (1 - beta * y), c.bottoms[0]
    )


@oracle("TanH")
def tanh(c: Call) -> Answer:
    return _each(math.tanh, lambda x, y: 1 - y * y, c.bottoms[0])


@oracle("Threshold")
def threshold(c: Call) -> Answer:
    at = c.p.get("threshold", 0.0)
    return [(c.bottoms[0] > at).astype(np.float64)], None


# ------------------------------------------------------------------ several bottoms


@oracle("Eltwise")
def eltwise(c: Call) -> Answer:
    operation = c.p.get("operation", "SUM")
    coeff = c.p.get("coeff") or [1.0] * len(c.bottoms)
    xs = c.bottoms
    if operation == "SUM":
        y = sum(a * x for a, x in zip(coeff, xs, strict=True))
        return [np.asarray(y)], lambda d: ([a * d[0] for a in coeff], [])
    if operation == "PROD":
        y = np.prod(xs, axis=0)

        def backward(d: Diffs) -> tuple[Diffs, Diffs]:
            if not c.p.get("stable_prod_grad", True):
                return [y / x * d[0] for x in xs], []
            rest = [
                np.prod([x for j, x in enumerate(xs) if j != i], axis=0) for i in range(len(xs))
            ]
            return [r * d[0] for r in rest], []

        return [y], backward
    y, mask = np.zeros_like(xs[0]), np.zeros(xs[0].shape, dtype=int)
    for at in np.ndindex(*y.shape):
        mask[at] = 0 if xs[0][at] > xs[1][at] else 1
        for i in range(2, len(xs)):
            if xs[i][at] > xs[mask[at]][at]:
                mask[at] = i
        y[at] = xs[mask[at]][at]
    return [y], lambda d: ([d[0] * (mask == i) for i in range(len(xs))], [])


@oracle("SpatialProduct")
def spatial_product(c: Call) -> Answer:
    x, weight = c.bottoms
    y = np.zeros_like(x)
    for n in range(x.shape[0]):
        for channel in range(x.shape[1]):
            y[n, channel] = x[n, channel] * weight[n, 0]

    def backward(d: Diffs) -> tuple[Diffs, Diffs]:
        dx, dw = np.zeros_like(x), np.zeros_like(weight)
        for n in range(x.shape[0]):
            for channel in range(x.shape[1]):
                dx[n, channel] = d[0][n, channel] * weight[n, 0]
                dw[n, 0] += d[0][n, channel] * x[n, channel]
        return [dx, dw], []

    return [y], backward


@oracle("Scale", "Bias")
def scale(c: Call) -> Answer:
    """Both; a Scale's bias is its last parameter."""
    x = c.bottoms[0]
    is_scale = c.type == "Scale"
    has_bias = is_scale and c.p.get("bias_term", False)
    factors = c.bottoms[1] if len(c.bottoms) == 2 else c.params[0]
    bias = c.params[-1] if has_bias else np.zeros(factors.shape)
    axis = c.p.get("axis", 1) % x.ndim if factors.ndim else 0

    def place(at: tuple[int, ...]) -> tuple[int, ...]:
        return at[axis : axis + factors.ndim]

    y = np.zeros_like(x)
    for at in np.ndindex(*x.shape):
        f = factors[place(at)]
        y[at] = x[at] * f + bias[place(at)] if is_scale else x[at] + f

    def backward(d: Diffs) -> tuple[Diffs, Diffs]:
        dx, df, db = np.zeros_like(x), np.zeros(factors.shape), np.zeros(factors.shape)
        for at in np.ndindex(*x.shape):
            f = factors[place(at)]
            dx[at] = d[0][at] * (f if is_scale else 1.0)
            df[place(at)] += d[0][at] * (x[at] if is_scale else 1.0)
            db[place(at)] += d[0][at]
        params = ([] if len(c.bottoms) == 2 else [df]) + ([db] if has_bias else [])
        return [dx, df][: len(c.bottoms)], params

    return [y], backward


# ------------------------------------------------------------------ copies


def _moved(c: Call, ids: list[Array], also: int = 0) -> Answer:
    """Tops that are values of bottom 0 at flat places ``ids``; diffs are added up there."""
    x = c.bottoms[0]

    def backward(d: Diffs) -> tuple[Diffs, Diffs]:
        dx = np.zeros(x.size)
        for places, diff in zip(ids, d, strict=True):
            for place, value in zip(places.ravel(), diff.ravel(), strict=True):
                dx[place] += value
        return [dx.reshape(x.shape), *[None] * also], []

    return [x.ravel()[places] for places in ids], backward


def _places(x: Array) -> Array:
    return np.arange(x.size).reshape(x.shape)


@oracle("Concat")
def concat(c: Call) -> Answer:
    axis = c.p.get("concat_dim", c.p.get("axis", 1)) % c.bottoms[0].ndim
    ends = np.cumsum([x.shape[axis] for x in c.bottoms])[:-1]
    return [np.concatenate(c.bottoms, axis)], lambda d: (np.split(d[0], ends, axis), [])


@oracle("Slice")
def slice_(c: Call) -> Answer:
    x = c.bottoms[0]
    axis = c.p.get("slice_dim", c.p.get("axis", 1)) % x.ndim
    points = c.p.get("slice_point") or [x.shape[axis] // c.tops * i for i in range(1, c.tops)]
    return _moved(c, np.split(_places(x), points, axis))


@oracle("Split")
def split(c: Call) -> Answer:
    return _moved(c, [_places(c.bottoms[0])] * c.tops)


@oracle("Flatten")
def flatten(c: Call) -> Answer:
    shape = c.bottoms[0].shape
    if c.dialect == "dl1":
        new: tuple[int, ...] = (shape[0], math.prod(shape[1:]), 1, 1)
    else:
        first = c.p.get("axis", 1) % len(shape)
        last = c.p.get("end_axis", -1) % len(shape)
        new = (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])
    return _moved(c, [_places(c.bottoms[0]).reshape(new)])


@oracle("Reshape")
def reshape(c: Call) -> Answer:
    x = c.bottoms[0]
    axis, num_axes, dims = c.p.get("axis", 0), c.p.get("num_axes", -1), c.p["shape"]["dim"]
    start = axis if axis >= 0 else x.ndim + axis + 1
    end = x.ndim if num_axes == -1 else start + num_axes
    middle = [x.shape[start + i] if dim == 0 else dim for i, dim in enumerate(dims)]
    new = [*x.shape[:start], *middle, *x.shape[end:]]
    if -1 in new:
        new[new.index(-1)] = x.size // -math.prod(new)
    return _moved(c, [_places(x).reshape(new)])


@oracle("Tile")
def tile(c: Call) -> Answer:
    x = c.bottoms[0]
    axis = c.p.get("axis", 1) % x.ndim
    return _moved(c, [np.concatenate([_places(x)] * c.p["tiles"], axis)])


@oracle("Crop")
def crop(c: Call) -> Answer:
    x, reference = c.bottoms
    axis = c.p.get("axis", 2) % x.ndim
    offset = c.p.get("offset", [])
    cut = []
    for i in range(x.ndim):
        if i < axis:
            cut.append(slice(None))
            continue
        start = 0 if not offset else offset[0] if len(offset) == 1 else offset[i - axis]
        cut.append(slice(start, start + reference.shape[i]))
    return _moved(c, [_places(x)[tuple(cut)]], also=1)


@oracle("BatchReindex")
def batch_reindex(c: Call) -> Answer:
    x, items = c.bottoms
    return _moved(c, [_places(x)[items.astype(int)]], also=1)


@oracle("Filter")
def filter_(c: Call) -> Answer:
    *data, selector = c.bottoms
    kept = [i for i, value in enumerate(selector.ravel()) if value != 0]

    def backward(d: Diffs) -> tuple[Diffs, Diffs]:
        diffs: Diffs = [np.zeros_like(x) for x in data]
        for diff, top in zip(diffs, d, strict=True):
            for place, item in enumerate(kept):
                diff[item] = top[place]
        return [*diffs, None], []

    return [np.array([x[i] for i in kept]).reshape(-1, *x.shape[1:]) for x in data], backward


@oracle("Silence")
def silence(c: Call) -> Answer:
    return [], None


@oracle("Padding")
def padding(c: Call) -> Answer:
    x = c.bottoms[0]
    begin, end = c.p.get("pad_beg", 0), c.p.get("pad_end", 0)
    n, channels, height, width = x.shape
    y = np.zeros((n, channels, height + begin + end, width + begin + end))

    def pairs() -> list[tuple[int, int, int, int]]:
        return [
            (h, w, h + begin, w + begin)
            for h in range(height)
            for w in range(width)
            if 0 <= h + begin < y.shape[2] and 0 <= w + begin < y.shape[3]
        ]

    for h, w, i, j in pairs():
        y[:, :, i, j] = x[:, :, h, w]

    def backward(d: Diffs) -> tuple[Diffs, Diffs]:
        dx = np.zeros_like(x)
        for h, w, i, j in pairs():
            dx[:, :, h, w] = d[0][:, :, i, j]
        return [dx], []

    return [y], backward


@oracle("DummyData")
def dummy_data(c: Call) -> Answer:
    shapes = [s["dim"] for s in c.p.get("shape", [])]
    if not shapes:
        shapes = list(zip(*(c.p[k] for k in ("num", "channels", "height", "width")), strict=True))
    fillers = c.p.get("data_filler") or [{}]
    tops = [
        np.full(
            shapes[i if len(shapes) > 1 else 0],
            float(fillers[i if len(fillers) > 1 else 0].get("value", 0.0)),
        )
        for i in range(c.tops)
    ]
    return tops, None


@oracle("Parameter")
def parameter(c: Call) -> Answer:
    return [c.params[0]], lambda d: ([], [d[0]])


# ------------------------------------------------------------------ along an axis


@oracle("Reduction")
def reduction(c: Call) -> Answer:
    x = c.bottoms[0]
    axis = c.p.get("axis", 0) % x.ndim
    operation, coeff = c.p.get("operation", "SUM"), c.p.get("coeff", 1.0)
    rows = x.reshape(math.prod(x.shape[:axis]), -1)
    if operation == "MEAN":
        coeff /= rows.shape[1]
    values = {"ASUM": np.abs, "SUMSQ": np.square}.get(operation, lambda v: v)(rows)
    slopes = {"ASUM": np.sign, "SUMSQ": lambda v: 2 * v}.get(operation, np.ones_like)(rows)
    y = coeff * np.array([sum(row) for row in values])
    return [y.reshape(x.shape[:axis])], lambda d: (
        [(coeff * d[0].reshape(-1, 1) * slopes).reshape(x.shape)], [])  # fmt: skip


@oracle("Softmax")
def softmax(c: Call) -> Answer:
    axis = c.p.get("axis", 1)
    y = softmax_of(c.bottoms[0], axis)
    return [y], lambda d: ([(d[0] - (d[0] * y).sum(axis, keepdims=True)) * y], [])


def softmax_of(x: Array, axis: int) -> Array:
    e: Array = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


@oracle("ArgMax")
def argmax(c: Call) -> Answer:
    x = c.bottoms[0]
    k, with_values = c.p.get("top_k", 1), c.p.get("out_max_val", False)
    if c.dialect == "dl1":
        axis: int | None = 1
    else:
        axis = c.p["axis"] % x.ndim if "axis" in c.p else None
    rows = x.reshape(x.shape[0], -1) if axis is None else np.moveaxis(x, axis, -1)
    flat = rows.reshape(-1, rows.shape[-1])
    best = [sorted(((v, i) for i, v in enumerate(row)), reverse=True)[:k] for row in flat]
    values = np.array([[v for v, _ in row] for row in best]).reshape(*rows.shape[:-1], k)
    numbers = np.array([[float(i) for _, i in row] for row in best]).reshape(values.shape)
    if axis is None:
        top = np.stack([numbers, values] if with_values else [numbers], 1)
        return [top.reshape(top.shape + (1,) * (x.ndim - 3))], None
    numbers, values = np.moveaxis(numbers, -1, axis), np.moveaxis(values, -1, axis)
    if c.dialect == "dl1":
        return [np.concatenate([numbers, values], 1) if with_values else numbers], None
    return [values if with_values else numbers], None
