"""Oracles of losses and accuracies; see oracles.py."""

from __future__ import annotations

import math

import numpy as np

from tests.caffe.layers.oracles import Answer, Array, Call, oracle, softmax_of

FLT_MIN = float(np.finfo(np.float32).tiny)
LOG_THRESHOLD = 1e-20


def _scalar(c: Call, value: float) -> Array:
    return np.full((1, 1, 1, 1) if c.dialect == "dl1" else (), value)


def _normalizer(c: Call, default: str, valid: int, outer: int, places: int) -> float:
    """get_normalizer; loss_param.normalize is the older way to say VALID or BATCH_SIZE."""
    mode = c.loss.get("normalization")
    if mode is None and "normalize" in c.loss:
        mode = "VALID" if c.loss["normalize"] else "BATCH_SIZE"
    sizes = {"VALID": valid, "BATCH_SIZE": outer, "FULL": places, "NONE": 1}
    return max(1.0, sizes[mode or default])


def _rows(x: Array, axis: int) -> Array:
    """(places, classes)."""
    moved = np.moveaxis(x, axis, -1)
    return moved.reshape(-1, moved.shape[-1])


def _unrows(rows: Array, like: Array, axis: int) -> Array:
    return np.moveaxis(rows.reshape(np.moveaxis(like, axis, -1).shape), -1, axis)


@oracle("SoftmaxWithLoss")
def softmax_with_loss(c: Call) -> Answer:
    x, labels = c.bottoms[0], c.bottoms[1].ravel().astype(int)
    axis = c.p.get("axis", 1) % x.ndim
    p = _rows(softmax_of(x, axis), axis)
    if c.dialect == "dl1":
        ignored, weight = set(c.p.get("ignore_label", [])), c.p.get("weights")
    else:
        ignored, weight = {c.loss["ignore_label"]} if "ignore_label" in c.loss else set(), None
    loss, valid, total, dp = 0.0, 0, 0.0, np.zeros(p.shape)
    for row, label in enumerate(labels):
        if label in ignored:
            continue
        w = 1.0 if weight is None else weight[label]
        loss -= w * math.log(max(p[row, label], FLT_MIN))
        dp[row] = w * p[row]
        dp[row, label] -= w
        valid, total = valid + 1, total + w
    if c.dialect != "dl1":
        total = _normalizer(c, "VALID", valid, math.prod(x.shape[:axis]), len(labels))
    tops = [_scalar(c, loss / total), softmax_of(x, axis)][: c.tops]
    return tops, lambda d: ([_unrows(dp * float(d[0].ravel()[0]) / total, x, axis), None], [])


@oracle("InfogainLoss")
def infogain(c: Call) -> Answer:
    x, labels = c.bottoms[0], c.bottoms[1].ravel().astype(int)
    extra = [None] * (len(c.bottoms) - 1)
    if c.dialect != "bvlc":
        p = np.maximum(x.reshape(x.shape[0], -1), LOG_THRESHOLD)
        h = c.bottoms[2].reshape(p.shape[1], p.shape[1])
        loss = -sum(h[label, j] * math.log(p[i, j])
                    for i, label in enumerate(labels) for j in range(p.shape[1]))  # fmt: skip
        dx = np.array([-h[label] / p[i] for i, label in enumerate(labels)]) / len(p)
        return [_scalar(c, loss / len(p))], lambda d: (
            [dx.reshape(x.shape) * float(d[0].ravel()[0]), *extra], [])  # fmt: skip
    axis = c.p.get("axis", 1) % x.ndim
    p = _rows(softmax_of(x, axis), axis)
    h = c.bottoms[2].reshape(p.shape[1], p.shape[1])
    loss, valid, dp = 0.0, 0, np.zeros(p.shape)
    for row, label in enumerate(labels):
        if label == c.loss.get("ignore_label"):
            continue
        valid += 1
        for j in range(p.shape[1]):
            loss -= h[label, j] * math.log(max(p[row, j], LOG_THRESHOLD))
            dp[row, j] = p[row, j] * h[label].sum() - h[label, j]
    total = _normalizer(c, "VALID", valid, math.prod(x.shape[:axis]), len(labels))
    tops = [_scalar(c, loss / total), softmax_of(x, axis)][: c.tops]
    return tops, lambda d: ([_unrows(dp * float(d[0]) / total, x, axis), *extra], [])


@oracle("MultinomialLogisticLoss")
def multinomial(c: Call) -> Answer:
    x, labels = c.bottoms[0], c.bottoms[1].ravel().astype(int)
    p = np.maximum(x.reshape(x.shape[0], -1), LOG_THRESHOLD)
    loss = -sum(math.log(p[i, label]) for i, label in enumerate(labels)) / len(p)
    dp = np.zeros(p.shape)
    for i, label in enumerate(labels):
        dp[i, label] = -1 / (p[i, label] * len(p))
    return [_scalar(c, loss)], lambda d: (
        [dp.reshape(x.shape) * float(d[0].ravel()[0]), None], [])  # fmt: skip


@oracle("HingeLoss")
def hinge(c: Call) -> Answer:
    x, labels = c.bottoms[0], c.bottoms[1].ravel().astype(int)
    rows = x.reshape(x.shape[0], -1)
    sign = np.ones(rows.shape)
    for i, label in enumerate(labels):
        sign[i, label] = -1
    over = np.maximum(0, 1 + sign * rows)
    if c.p.get("norm", "L1") == "L1":
        loss, dx = over.sum(), sign * np.sign(over)
    else:
        loss, dx = (over**2).sum(), 2 * sign * over
    return [_scalar(c, loss / len(rows))], lambda d: (
        [(dx / len(rows)).reshape(x.shape) * float(d[0].ravel()[0]), None], [])  # fmt: skip


@oracle("EuclideanLoss")
def euclidean(c: Call) -> Answer:
    a, b = c.bottoms
    difference = a - b.reshape(a.shape)
    if c.dialect != "dl1":
        loss, da = (difference**2).sum() / a.shape[0] / 2, difference / a.shape[0]
    else:
        scaled = difference / math.sqrt(a.size)
        squares = float((scaled**2).sum())
        if c.p.get("type", "L2") == "L2":
            loss, da = 0.5 * squares, scaled / math.sqrt(a.size)
        else:
            loss = math.sqrt(squares)
            da = scaled / math.sqrt(a.size) / max(loss, 1e-6)
    db = -da.reshape(b.shape)
    return [_scalar(c, loss)], lambda d: (
        [da * float(d[0].ravel()[0]), db * float(d[0].ravel()[0])], [])  # fmt: skip


@oracle("SigmoidCrossEntropyLoss")
def sigmoid_cross_entropy(c: Call) -> Answer:
    x, target = c.bottoms[0], c.bottoms[1].reshape(c.bottoms[0].shape)
    knows_loss_param = c.dialect == "bvlc"
    loss, valid, dx = 0.0, 0, np.zeros(x.shape)
    for at in np.ndindex(*x.shape):
        v, t = x[at], target[at]
        if knows_loss_param and int(t) == c.loss.get("ignore_label"):
            continue
        valid += 1
        loss -= v * (t - (v >= 0)) - math.log(1 + math.exp(v - 2 * v * (v >= 0)))
        dx[at] = 1 / (1 + math.exp(-v)) - t
    if knows_loss_param:
        total = _normalizer(c, "BATCH_SIZE", valid, x.shape[0], x.size)
    else:
        total = x.shape[0]
    return [_scalar(c, loss / total)], lambda d: (
        [dx * float(d[0].ravel()[0]) / total, None], [])  # fmt: skip


@oracle("ContrastiveLoss")
def contrastive(c: Call) -> Answer:
    a, b, similar = c.bottoms
    margin = c.p.get("margin", 1.0)
    old = c.dialect == "dl1" or c.p.get("legacy_version", False)
    n = a.shape[0]
    loss, da = 0.0, np.zeros((n, a.shape[1]))
    for i in range(n):
        difference = (a[i] - b[i]).ravel()
        squares = float(difference @ difference)
        if int(similar.ravel()[i]):
            loss += squares
            da[i] = difference / n
            continue
        distance = math.sqrt(squares)
        lack = margin - (squares if old else distance)
        loss += max(lack, 0.0) if old else max(lack, 0.0) ** 2
        if lack > 0:
            da[i] = -difference / n * (1 if old else lack / (distance + 1e-4))
    da = da.reshape(a.shape)
    return [_scalar(c, loss / n / 2)], lambda d: (
        [da * float(d[0].ravel()[0]), -da * float(d[0].ravel()[0]), None], [])  # fmt: skip


@oracle("Accuracy")
def accuracy(c: Call) -> Answer:
    x, labels = c.bottoms[0], c.bottoms[1].ravel().astype(int)
    if c.dialect == "dl1":
        rows = x.reshape(x.shape[0], -1)
    else:
        rows = _rows(x, c.p.get("axis", 1) % x.ndim)
    k, hits, count = c.p.get("top_k", 1), 0, 0
    classes = rows.shape[1]
    of_class, hits_of_class = np.zeros(classes), np.zeros(classes)
    for row, label in zip(rows, labels, strict=True):
        if c.dialect != "dl1" and label == c.p.get("ignore_label"):
            continue
        count += 1
        if c.dialect == "bvlc":
            better = sum(v >= row[label] for v in row) - 1
            hit = better < k
        else:
            best = sorted(((v, i) for i, v in enumerate(row)), reverse=True)[:k]
            hit = label in [i for _, i in best]
        if c.tops == 2:
            of_class[label] += 1
            hits_of_class[label] += hit
        hits += hit
    share = hits / count if count else 0.0 if c.dialect == "bvlc" else math.nan
    of_classes = np.where(of_class == 0, 0, hits_of_class / np.maximum(of_class, 1))
    return [_scalar(c, share), of_classes][: c.tops], None


@oracle("SegAccuracy")
def seg_accuracy(c: Call) -> Answer:
    x, labels = c.bottoms
    classes = x.shape[1]
    confusion = np.zeros((classes, classes))
    for n, h, w in np.ndindex(x.shape[0], *x.shape[2:]):
        label = int(labels[n, 0, h, w])
        if label in c.p.get("ignore_label", []):
            continue
        confusion[label, max((v, i) for i, v in enumerate(x[n, :, h, w]))[1]] += 1
    total = confusion.sum()
    share = np.trace(confusion) / total if total else 0.0
    recalls = [confusion[i, i] / confusion[i].sum() for i in range(classes) if confusion[i].sum()]
    overlaps = []
    for i in range(classes):
        union = confusion[i].sum() + confusion[:, i].sum() - confusion[i, i]
        overlaps.append(1.0 if union == confusion[i, i] else confusion[i, i] / union)
    measures = [share, sum(recalls) / len(recalls) if recalls else 0.0, sum(overlaps) / classes]
    return [np.array(measures).reshape(1, 1, 1, 3)], None
