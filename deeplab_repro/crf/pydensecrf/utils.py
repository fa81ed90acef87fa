"""Unary energies and pairwise features as numpy arrays: what ``pydensecrf.utils`` offers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "compute_unary",
    "create_pairwise_bilateral",
    "create_pairwise_gaussian",
    "softmax_to_unary",
    "unary_from_labels",
    "unary_from_softmax",
]

Array = NDArray[np.float32]


def unary_from_labels(
    labels: NDArray[Any], n_labels: int, gt_prob: float, zero_unsure: bool = True
) -> Array:
    """Energies of an annotation that is right with probability ``gt_prob``.

    Args:
        labels: class ids of any shape.
        n_labels: number of classes; where ``zero_unsure``, label 0 is not one of them.
        gt_prob: above 0 and below 1.
        zero_unsure: label 0 stands for "unknown" (all classes alike), label k for class k - 1.

    Returns:
        (n_labels, points) float32: -log p.
    """
    assert 0 < gt_prob < 1, "gt_prob must be above 0 and below 1"
    labels = labels.ravel()
    points = np.arange(labels.size)
    unary = np.full((n_labels, labels.size), -np.log((1.0 - gt_prob) / (n_labels - 1)), np.float32)
    unary[labels - 1 if zero_unsure else labels, points] = -np.log(gt_prob)
    if zero_unsure:
        unary[:, labels == 0] = -np.log(1.0 / n_labels)
    return unary


def compute_unary(labels: NDArray[Any], M: int, GT_PROB: float = 0.5) -> Array:
    """Old name of :func:`unary_from_labels`."""
    logging.warning("compute_unary is deprecated, use unary_from_labels")
    return unary_from_labels(labels, M, GT_PROB)


def unary_from_softmax(
    sm: NDArray[Any], scale: float | None = None, clip: float | None = 1e-5
) -> Array:
    """Energies -log p of class probabilities.

    Args:
        sm: (classes, ...) probabilities.
        scale: above 0 and at most 1: ``scale * p + (1 - scale) / classes`` takes the place of p.
        clip: least probability, after scaling; None does not clip.

    Returns:
        (classes, points) float32.
    """
    classes = sm.shape[0]
    if scale is not None:
        assert 0 < scale <= 1, "scale must be above 0 and at most 1"
        sm = scale * sm + (1 - scale) * (np.ones(sm.shape) / classes)
    if clip is not None:
        sm = np.clip(sm, clip, 1.0)
    energies = -np.log(sm).reshape(classes, -1)
    return energies.astype(np.float32)


def softmax_to_unary(sm: NDArray[Any], GT_PROB: float = 1) -> Array:
    """Old name of :func:`unary_from_softmax`, without clipping."""
    logging.warning("softmax_to_unary is deprecated, use unary_from_softmax")
    return unary_from_softmax(sm, None if GT_PROB == 1 else GT_PROB, clip=None)


def create_pairwise_gaussian(sdims: Sequence[float], shape: Sequence[int]) -> Array:
    """Positions divided by their std, for ``addPairwiseEnergy``.

    Args:
        sdims: std for each axis of the data, in the order of the axes (rows first).
        shape: of the data.

    Returns:
        (axes, points) float32.
    """
    return _positions(sdims, shape).reshape(len(sdims), -1)


def create_pairwise_bilateral(
    sdims: Sequence[float], schan: float | Sequence[float], img: NDArray[Any], chdim: int = -1
) -> Array:
    """Positions and channels divided by their std, for ``addPairwiseEnergy``.

    Args:
        sdims: std for each axis of the data, in the order of the axes (rows first).
        schan: std of the channels: one number, or one for each.
        img: the data.
        chdim: which axis holds the channels; -1: there is none.

    Returns:
        (axes + channels, points) float32.
    """
    channels = img[None] if chdim == -1 else np.moveaxis(img, chdim, 0)
    channels = channels.astype(np.float32)
    if isinstance(schan, (int, float, np.number)):
        channels /= schan
    else:
        for channel, std in enumerate(schan):
            channels[channel] /= std
    features = np.concatenate([_positions(sdims, channels.shape[1:]), channels])
    return features.reshape(len(features), -1)


def _positions(sdims: Sequence[float], shape: Sequence[int]) -> Array:
    positions = np.indices(tuple(shape), dtype=np.float32)
    for axis, std in enumerate(sdims):
        positions[axis] /= std
    return positions
