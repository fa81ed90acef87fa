"""Fully connected CRF with Gaussian edge potentials, as DeepLab's densecrf program computes it.

>>> from deeplab_repro.crf import CRFParams, dense_crf
>>> q = dense_crf(-scores, image, CRFParams.named("deeplab_v2_resnet101"))
"""

from deeplab_repro.crf.energy import Energies
from deeplab_repro.crf.inference import dense_crf, dense_crf_features
from deeplab_repro.crf.learning import Example, Objective, fit
from deeplab_repro.crf.module import DenseCRF
from deeplab_repro.crf.params import Bilateral, CRFParams

__all__ = [
    "Bilateral",
    "CRFParams",
    "DenseCRF",
    "Energies",
    "Example",
    "Objective",
    "dense_crf",
    "dense_crf_features",
    "fit",
]
