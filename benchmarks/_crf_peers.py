"""Other programs' dense CRFs on the problems that `crf_vs_peers.py` times."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from _crf_problems import Problem
from _timing import why_not


def with_pydensecrf(given: Problem, module: str = "pydensecrf.densecrf") -> np.ndarray:
    """(C, H, W) marginals by pydensecrf, or by another module with its interface.

    The kernels are normalized as DeepLab's are.
    """
    dcrf = importlib.import_module(module)
    _, labels, height, width = given.unary.shape
    p = given.params
    crf = dcrf.DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(given.unary[0].reshape(labels, -1).numpy())
    after = {"normalization": dcrf.NORMALIZE_AFTER}
    crf.addPairwiseGaussian(sxy=p.pos_xy_std, compat=p.pos_w, **after)
    rgb = np.ascontiguousarray(given.image[0].permute(1, 2, 0).numpy())
    crf.addPairwiseBilateral(sxy=p.bi_xy_std, srgb=p.bi_rgb_std, rgbim=rgb, compat=p.bi_w, **after)
    return np.asarray(crf.inference(p.iterations)).reshape(labels, height, width)


def with_simplecrf(given: Problem) -> np.ndarray:
    """(H, W) labels by SimpleCRF, which takes probabilities."""
    import denseCRF

    p = given.params
    rgb = np.ascontiguousarray(given.image[0].permute(1, 2, 0).numpy())
    probabilities = (-given.unary[0]).softmax(0).permute(1, 2, 0).contiguous().numpy()
    settings = (p.bi_w, p.bi_xy_std, p.bi_rgb_std, p.pos_w, p.pos_xy_std, float(p.iterations))
    return np.asarray(denseCRF.densecrf(rgb, probabilities, settings))


class Peer(NamedTuple):
    """A module to import, and the whole call: (H, W) labels."""

    module: str
    labels: Callable[[Problem], np.ndarray]


PEERS = {
    "pydensecrf": Peer("pydensecrf.densecrf", lambda given: with_pydensecrf(given).argmax(0)),
    "SimpleCRF": Peer("denseCRF", with_simplecrf),
}


def reason_for_absence(peer: str) -> str:
    """Why a peer cannot be imported, in one line; "" where it can."""
    return why_not(PEERS[peer].module)
