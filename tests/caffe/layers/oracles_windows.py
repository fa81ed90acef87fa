"""Oracles of layers with windows, matrices or statistics; see oracles.py."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from tests.caffe.layers.oracles import Answer, Array, Call, Diffs, legacy_shape, oracle

Places = Iterator[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]


class Window:
    """kernel, stride, pad and dilation of base_conv_layer.cpp, ``hole`` of the v1 fork."""

    def __init__(self, p: dict[str, object], axes: int) -> None:
        def sizes(name: str, short: str, default: int) -> list[int]:
            if f"{short}_h" in p or f"{short}_w" in p:
                other = 0 if short == "pad" else 1
                return [int(str(p.get(f"{short}_{side}", other))) for side in "hw"]
            given = p.get(name, default)
            values = list(given) if isinstance(given, list) else [given]
            return [int(str(v)) for v in (values * axes if len(values) == 1 else values)]

        self.kernel = sizes("kernel_size", "kernel", 0)
        self.stride = sizes("stride", "stride", 1)
        self.pad = sizes("pad", "pad", 0)
        dilation = "hole" if any(name.startswith("hole") for name in p) else "dilation"
        self.dilation = sizes(dilation, dilation, 1)
        self.axes = axes

    def output(self, size: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(
            int((size[i] + 2 * self.pad[i] - (self.dilation[i] * (self.kernel[i] - 1) + 1))
                / self.stride[i]) + 1
            for i in range(self.axes)
        )  # fmt: skip

    def transposed_output(self, size: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(
            self.stride[i] * (size[i] - 1) + self.dilation[i] * (self.kernel[i] - 1) + 1
            - 2 * self.pad[i]
            for i in range(self.axes)
        )  # fmt: skip

    def places(self, size: tuple[int, ...], out: tuple[int, ...]) -> Places:
        """(tap, output place, input place) of every pair that lies in the map."""
        for tap in np.ndindex(*self.kernel):
            for o in np.ndindex(*out):
                i = tuple(
                    o[a] * self.stride[a] - self.pad[a] + tap[a] * self.dilation[a]
                    for a in range(self.axes)
                )
                if all(0 <= i[a] < size[a] for a in range(self.axes)):
                    yield tap, o, i


def _convolve(x: Array, w: Array, window: Window, groups: int) -> Array:
    """x (N, C, ...), w (K, C / groups, ...) -> (N, K, ...)."""
    size = x.shape[2:]
    y = np.zeros((x.shape[0], w.shape[0], *window.output(size)))
    k, c = w.shape[0] // groups, x.shape[1] // groups
    for tap, o, i in window.places(size, y.shape[2:]):
        for g in range(groups):
            filters = w[(slice(g * k, g * k + k), slice(None), *tap)]
            values = x[(slice(None), slice(g * c, g * c + c), *i)]
            y[(slice(None), slice(g * k, g * k + k), *o)] += values @ filters.T
    return y


def _data_diff(dy: Array, w: Array, window: Window, groups: int, size: tuple[int, ...]) -> Array:
    k, c = w.shape[0] // groups, w.shape[1]
    dx = np.zeros((dy.shape[0], c * groups, *size))
    for tap, o, i in window.places(size, dy.shape[2:]):
        for g in range(groups):
            filters = w[(slice(g * k, g * k + k), slice(None), *tap)]
            diffs = dy[(slice(None), slice(g * k, g * k + k), *o)]
            dx[(slice(None), slice(g * c, g * c + c), *i)] += diffs @ filters
    return dx


def _weight_diff(x: Array, dy: Array, shape: tuple[int, ...], window: Window, groups: int) -> Array:
    dw = np.zeros(shape)
    k, c = shape[0] // groups, shape[1]
    for tap, o, i in window.places(x.shape[2:], dy.shape[2:]):
        for g in range(groups):
            values = x[(slice(None), slice(g * c, g * c + c), *i)]
            diffs = dy[(slice(None), slice(g * k, g * k + k), *o)]
            dw[(slice(g * k, g * k + k), slice(None), *tap)] += diffs.T @ values
    return dw


@oracle("Convolution", "Deconvolution")
def convolution(c: Call) -> Answer:
    axis = c.p.get("axis", 1) % c.bottoms[0].ndim
    given = c.bottoms[0].shape
    xs = [x.reshape(-1, *x.shape[axis:]) for x in c.bottoms]
    window = Window(c.p, c.bottoms[0].ndim - axis - 1)
    groups, w = c.p.get("group", 1), c.params[0]
    transposed = c.type == "Deconvolution"
    size = xs[0].shape[2:]
    if transposed:
        ys = [_data_diff(x, w, window, groups, window.transposed_output(size)) for x in xs]
    else:
        ys = [_convolve(x, w, window, groups) for x in xs]
    has_bias = c.p.get("bias_term", True)
    if has_bias:
        bias = c.params[1].ravel()
        ys = [y + bias.reshape(1, -1, *[1] * window.axes) for y in ys]

    def backward(d: Diffs) -> tuple[Diffs, Diffs]:
        diffs: Diffs = []
        dw = np.zeros(w.shape)
        db = np.zeros(c.p["num_output"])
        for x, top in zip(xs, d, strict=True):
            dy = top.reshape(-1, *top.shape[axis:])
            if transposed:
                diffs.append(_convolve(dy, w, window, groups))
                dw += _weight_diff(dy, x, w.shape, window, groups)
            else:
                diffs.append(_data_diff(dy, w, window, groups, size))
                dw += _weight_diff(x, dy, w.shape, window, groups)
            db += dy.sum((0, *range(2, dy.ndim)))
        params = [dw, db.reshape(c.params[1].shape)] if has_bias else [dw]
        return [dx.reshape(given) for dx in diffs], params

    return [y.reshape(*given[:axis], *y.shape[1:]) for y in ys], backward


@oracle("Im2col")
def im2col(c: Call) -> Answer:
    x = c.bottoms[0]
    axis = c.p.get("axis", 1) % x.ndim
    batch = x.reshape(-1, *x.shape[axis:])
    window = Window(c.p, x.ndim - axis - 1)
    out = window.output(batch.shape[2:])
    taps = {tap: i for i, tap in enumerate(np.ndindex(*window.kernel))}
    y = np.zeros((batch.shape[0], batch.shape[1], len(taps), *out))
    for tap, o, i in window.places(batch.shape[2:], out):
        y[(slice(None), slice(None), taps[tap], *o)] = batch[(slice(None), slice(None), *i)]

    def backward(d: Diffs) -> tuple[Diffs, Diffs]:
        dy, dx = d[0].reshape(y.shape), np.zeros(batch.shape)
        for tap, o, i in window.places(batch.shape[2:], out):
            dx[(slice(None), slice(None), *i)] += dy[(slice(None), slice(None), taps[tap], *o)]
        return [dx.reshape(x.shape)], []

    return [y.reshape(*x.shape[: axis + 1][:-1], batch.shape[1] * len(taps), *out)], backward


@oracle("InnerProduct")
def inner_product(c: Call) -> Answer:
    x = c.bottoms[0]
    axis = c.p.get("axis", 1) % x.ndim
    outputs = c.p["num_output"]
    rows = x.reshape(math.prod(x.shape[:axis]), -1)
    transpose = c.p.get("transpose", False)
    w = c.params[0].T if transpose else c.params[0].reshape(outputs, -1)
    y = rows @ w.T
    has_bias = c.p.get("bias_term", True)
    if has_bias:
        y = y + c.params[1].reshape(1, -1)
    shape = (x.shape[0], outputs, 1, 1) if c.dialect == "dl1" else (*x.shape[:axis], outputs)

    def backward(d: Diffs) -> tuple[Diffs, Diffs]:
        dy = d[0].reshape(y.shape)
        dw = rows.T @ dy if transpose else (dy.T @ rows).reshape(c.params[0].shape)
        db = [dy.sum(0).reshape(c.params[1].shape)] if has_bias else []
        return [(dy @ w).reshape(x.shape)], [dw, *db]

    return [y.reshape(shape)], backward


@oracle("Embed")
def embed(c: Call) -> Answer:
    x, w = c.bottoms[0], c.params[0]
    has_bias = c.p.get("bias_term", True)
    y = np.zeros((*x.shape, w.shape[1]))
    for at in np.ndindex(*x.shape):
        y[at] = w[int(x[at])] + (c.params[1] if has_bias else 0)

    def backward(d: Diffs) -> tuple[Diffs, Diffs]:
        dw = np.zeros(w.shape)
        for at in np.ndindex(*x.shape):
            dw[int(x[at])] += d[0][at]
        db = [d[0].reshape(-1, w.shape[1]).sum(0)] if has_bias else []
        return [None], [dw, *db]

    return [y], backward


# ------------------------------------------------------------------ pooling, interpolation


def _pool(x: Array, method: str, kernel: tuple[int, int], stride: tuple[int, int],
          pad: tuple[int, int], floor: bool = False) -> tuple[Array, Array, Array]:  # fmt: skip
    """Tops, places of the maxima (-1: none), and weights (H', W', H, W) of AVE."""
    n, channels, height, width = x.shape
    out = []
    for a, size in enumerate((height, width)):
        steps = (size + 2 * pad[a] - kernel[a]) / stride[a]
        count = int(math.floor(steps) if floor else math.ceil(steps)) + 1
        if (pad[0] or pad[1]) and (count - 1) * stride[a] >= size + pad[a]:
            count -= 1
        out.append(count)
    y = np.full((n, channels, *out), -float(np.finfo(np.float32).max) if method == "MAX" else 0.0)
    mask = np.full(y.shape, -1.0)
    weights = np.zeros((*out, height, width))
    for i, j in np.ndindex(*out):
        top, left = i * stride[0] - pad[0], j * stride[1] - pad[1]
        bottom, right = min(top + kernel[0], height + pad[0]), min(left + kernel[1], width + pad[1])
        area = (bottom - top) * (right - left)
        for h in range(max(top, 0), min(bottom, height)):
            for w in range(max(left, 0), min(right, width)):
                weights[i, j, h, w] = 1 / area
                if method == "AVE":
                    y[:, :, i, j] += x[:, :, h, w] / area
                    continue
                for at in np.ndindex(n, channels):
                    if method == "MAX" and x[(*at, h, w)] > y[(*at, i, j)]:
                        y[(*at, i, j)] = x[(*at, h, w)]
                        mask[(*at, i, j)] = h * width + w
        if method == "STOCHASTIC":  # pooling_layer.cu, StoPoolForwardTest
            window = x[:, :, top:bottom, left:right].reshape(n, channels, -1)
            total = window.sum(-1)
            y[:, :, i, j] = (window**2).sum(-1) / np.where(total > 0, total, np.inf)
    return y, mask, weights


def _pool_backward(x: Array, method: str, mask: Array, weights: Array, dy: Array) -> Array:
    if method == "AVE":
        return np.einsum("ncij,ijhw->nchw", dy, weights)
    dx = np.zeros((*x.shape[:2], x.shape[2] * x.shape[3]))
    for n, channel, i, j in np.ndindex(*dy.shape):
        if mask[n, channel, i, j] < 0:
            continue  # Caffe writes before the map here
        dx[n, channel, int(mask[n, channel, i, j])] += dy[n, channel, i, j]
    return dx.reshape(x.shape)


@oracle("Pooling")
def pooling(c: Call) -> Answer:
    x, p = c.bottoms[0], c.p
    method = p.get("pool", "MAX")

    def pair(name: str, short: str, default: int) -> tuple[int, int]:
        if f"{short}_h" in p:
            return p[f"{short}_h"], p[f"{short}_w"]
        return p.get(name, default), p.get(name, default)

    kernel = x.shape[2:4] if p.get("global_pooling") else pair("kernel_size", "kernel", 0)
    y, mask, weights = _pool(
        x, method, (kernel[0], kernel[1]), pair("stride", "stride", 1), pair("pad", "pad", 0),
        p.get("round_mode") == "FLOOR",
    )  # fmt: skip
    tops = [y, mask][: c.tops]
    if method == "STOCHASTIC":
        return tops, None
    return tops, lambda d: ([_pool_backward(x, method, mask, weights, d[0])], [])


@oracle("SPP")
def spp(c: Call) -> Answer:
    x = c.bottoms[0]
    method, levels = c.p.get("pool", "MAX"), c.p["pyramid_height"]
    pooled = []
    for level in range(levels):
        bins = 2**level
        kernel = tuple(math.ceil(size / bins) for size in x.shape[2:])
        pad = tuple((k * bins - n + 1) // 2 for k, n in zip(kernel, x.shape[2:], strict=True))
        pooled.append(_pool(x, method, (kernel[0], kernel[1]), (kernel[0], kernel[1]),
                            (pad[0], pad[1])))  # fmt: skip
    flat = [y.reshape(y.shape[0], -1) for y, _, _ in pooled]
    top = pooled[0][0] if levels == 1 else np.concatenate(flat, 1)

    def backward(d: Diffs) -> tuple[Diffs, Diffs]:
        ends = np.cumsum([part.shape[1] for part in flat])[:-1]
        diffs = np.split(d[0].reshape(x.shape[0], -1), ends, 1)
        return [sum(
            _pool_backward(x, method, mask, weights, diff.reshape(y.shape))
            for diff, (y, mask, weights) in zip(diffs, pooled, strict=True)
        )], []  # fmt: skip

    return [top], backward


@oracle("Interp")
def interp(c: Call) -> Answer:
    x, p = c.bottoms[0], c.p
    begin, end = p.get("pad_beg", 0), p.get("pad_end", 0)
    x4 = x.reshape(legacy_shape(x))
    height, width = (size + begin + end for size in x4.shape[2:])
    zoom, shrink = p.get("zoom_factor"), p.get("shrink_factor")
    sizes = []
    for size, name in ((height, "height"), (width, "width")):
        if shrink and not zoom:
            sizes.append((size - 1) // shrink + 1)
        elif zoom and not shrink:
            sizes.append(size + (size - 1) * (zoom - 1))
        elif "height" in p and "width" in p:
            sizes.append(p[name])
        else:
            small = (size - 1) // shrink + 1
            sizes.append(small + (small - 1) * (zoom - 1))

    def taps(size: int, count: int) -> list[list[tuple[int, float]]]:
        ratio = (size - 1) / (count - 1) if count > 1 else 0.0
        found = []
        for i in range(count):
            place = ratio * i
            first = min(int(place + 1e-9), size - 1)
            part = max(place - first, 0.0)
            found.append([(first, 1 - part), (min(first + 1, size - 1), part)])
        return found

    rows, columns = taps(height, sizes[0]), taps(width, sizes[1])
    y = np.zeros((*x4.shape[:2], *sizes))

    def pairs() -> Iterator[tuple[int, int, int, int, float]]:
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                for h, a in row:
                    for w, b in column:
                        yield i, j, h - begin, w - begin, a * b

    for i, j, h, w, weight in pairs():
        y[:, :, i, j] += weight * x4[:, :, h, w]

    def backward(d: Diffs) -> tuple[Diffs, Diffs]:
        dx = np.zeros(x4.shape)
        for i, j, h, w, weight in pairs():
            dx[:, :, h, w] += weight * d[0][:, :, i, j]
        return [dx.reshape(x.shape)], []

    return [y], backward


# ------------------------------------------------------------------ normalisation


@oracle("BatchNorm")
def batch_norm(c: Call) -> Answer:
    """The moving sums after a training pass are in the params, which are changed in place."""
    x = c.bottoms[0]
    rows = np.moveaxis(x, 1, 0).reshape(x.shape[1], -1) if x.ndim > 1 else x.reshape(1, -1)
    eps, fraction = c.p.get("eps", 1e-5), c.p.get("moving_average_fraction", 0.999)
    use_global = c.p.get("use_global_stats", c.phase == "TEST")
    if c.dialect == "dl2" and not use_global:
        # No variance is computed: what stands in its place is the last pass's divisor, 0 at first.
        mean = rows.mean(1)
        variance = c.state.get("divisor", np.zeros(len(rows)))
        c.state["divisor"] = np.sqrt(variance + eps)
    elif c.dialect == "dl2" and c.p.get("update_global_stats") and c.phase == "TRAIN":
        m = rows.shape[1]
        mean = c.params[0] / c.params[2][0] if c.params[2][0] else np.zeros(len(rows))
        variance = ((rows - mean[:, None]) ** 2).sum(1) / m
        c.params[2][:] = c.params[2] * fraction + 1
        c.params[0][:] = c.params[0] * fraction + mean
        c.params[1][:] = c.params[1] * fraction + variance * (m / (m - 1) if m > 1 else 1)
    elif use_global:
        factor = 0.0 if c.params[2][0] == 0 else 1 / c.params[2][0]
        mean, variance = c.params[0] * factor, c.params[1] * factor
    else:
        m = rows.shape[1]
        mean = rows.sum(1) / m
        variance = ((rows - mean[:, None]) ** 2).sum(1) / m
        c.params[2][:] = c.params[2] * fraction + 1
        c.params[0][:] = c.params[0] * fraction + mean
        c.params[1][:] = c.params[1] * fraction + variance * (m / (m - 1) if m > 1 else 1)
    deviation = np.sqrt(variance + eps)[:, None]
    y = (rows - mean[:, None]) / deviation

    def back(r: Array) -> Array:
        if x.ndim == 1:
            return r.reshape(x.shape)
        return np.moveaxis(r.reshape(x.shape[1], x.shape[0], *x.shape[2:]), 0, 1)

    def backward(d: Diffs) -> tuple[Diffs, Diffs]:
        dy = np.moveaxis(d[0], 1, 0).reshape(rows.shape) if x.ndim > 1 else d[0].reshape(1, -1)
        if not use_global:
            mean_dy = dy.mean(1, keepdims=True)
            dy = dy - mean_dy - (dy * y).mean(1, keepdims=True) * y
        return [back(dy / deviation)], [None, None, None]

    return [back(y)], backward


@oracle("MVN")
def mvn(c: Call) -> Answer:
    x = c.bottoms[0]
    num, channels, height, width = legacy_shape(x)
    rows = x.reshape(num if c.p.get("across_channels", False) else num * channels, -1)
    eps = 1e-10 if c.dialect == "dl1" else c.p.get("eps", 1e-9)
    centred = rows - rows.mean(1, keepdims=True)
    normalize = c.p.get("normalize_variance", True)
    deviation = np.sqrt((centred**2).mean(1, keepdims=True)) + eps if normalize else 1.0
    y = centred / deviation

    def backward(d: Diffs) -> tuple[Diffs, Diffs]:
        dy = d[0].reshape(rows.shape)
        mean_dy = dy.mean(1, keepdims=True)
        if normalize:
            dx = (dy - mean_dy - y * (y * dy).mean(1, keepdims=True)) / deviation
        else:
            dx = dy if c.dialect == "dl1" else dy - mean_dy
        return [dx.reshape(x.shape)], []

    return [y.reshape(num, channels, height, width)], backward


@oracle("LRN")
def lrn(c: Call) -> Answer:
    x, p = c.bottoms[0], c.p
    size, alpha, beta = p.get("local_size", 5), p.get("alpha", 1.0), p.get("beta", 0.75)
    across = p.get("norm_region", "ACROSS_CHANNELS") == "ACROSS_CHANNELS"
    k = p.get("k", 1.0) if across else 1.0
    channels, height, width = x.shape[1:]
    half = (size - 1) // 2
    # Which values (c, h, w) belong to the neighbourhood of which.
    near = np.zeros((channels, height, width, channels, height, width))
    for ci, hi, wi in np.ndindex(channels, height, width):
        for step in np.ndindex(*((size,) if across else (size, size))):
            if across:
                at = (ci + step[0] - half, hi, wi)
            else:
                at = (ci, hi + step[0] - half, wi + step[1] - half)
            if 0 <= at[0] < channels and 0 <= at[1] < height and 0 <= at[2] < width:
                near[(ci, hi, wi, *at)] = 1 / (size if across else size * size)
    scale = k + alpha * np.einsum("chwdij,ndij->nchw", near, x**2)
    y = x * scale**-beta

    def backward(d: Diffs) -> tuple[Diffs, Diffs]:
        ratio = d[0] * y / scale
        spread = np.einsum("chwdij,nchw->ndij", near, ratio)
        return [d[0] * scale**-beta - 2 * alpha * beta * x * spread], []

    return [y], backward
