"""The classes and constants of ``pydensecrf.densecrf`` (revision 2723c7f), without its build.

Layouts are pydensecrf's: energies and marginals are (labels, points), pictures (height, width, 3),
and a picture's size is given as width, height.  What it refuses is refused here, with a word on the
cause; where it reads past an array or crashes there is an error.  Learning, which its Python never
reached, is in :class:`deeplab_repro.crf.DenseCRF`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deeplab_repro.crf.checks import check_energies, check_memory
from deeplab_repro.crf.compatibility import is_numbers
from deeplab_repro.crf.energy import label_energies, messages
from deeplab_repro.crf.features import bilateral_features, spatial_features
from deeplab_repro.crf.params import Std
from deeplab_repro.crf.pydensecrf.eigen import MatrixXf, typed_array
from deeplab_repro.ops import mean_field, permutohedral_build
from deeplab_repro.ops.permutohedral import Lattice

__all__ = [
    "CONST_KERNEL",
    "DIAG_KERNEL",
    "FULL_KERNEL",
    "NORMALIZE_AFTER",
    "NORMALIZE_BEFORE",
    "NORMALIZE_SYMMETRIC",
    "NO_NORMALIZATION",
    "ConstUnary",
    "DenseCRF",
    "DenseCRF2D",
    "KernelType",
    "LogisticUnary",
    "MatrixXf",
    "NormalizationType",
    "Unary",
]


class NormalizationType(IntEnum):
    """Where the kernel is divided by its sums."""

    NO_NORMALIZATION = 0
    NORMALIZE_BEFORE = 1
    NORMALIZE_AFTER = 2
    NORMALIZE_SYMMETRIC = 3


class KernelType(IntEnum):
    """What of a kernel could be learned; inference is the same for all."""

    CONST_KERNEL = 0
    DIAG_KERNEL = 1
    FULL_KERNEL = 2


NO_NORMALIZATION, NORMALIZE_BEFORE, NORMALIZE_AFTER, NORMALIZE_SYMMETRIC = NormalizationType
CONST_KERNEL, DIAG_KERNEL, FULL_KERNEL = KernelType
_NAMES: Final = ("none", "before", "after", "symmetric")


class Unary:
    """Energies of labels, for :meth:`DenseCRF.setUnary`."""

    def _energies(self) -> NDArray[np.float32]:
        """Memory of its own: the caller may change his arrays later, as with pydensecrf."""
        raise TypeError("Unary is abstract: use ConstUnary or LogisticUnary")


class ConstUnary(Unary):
    """Energies that do not change, (labels, points)."""

    def __init__(self, u: NDArray[np.float32]) -> None:
        self._u = _matrix("u", u).copy()

    def _energies(self) -> NDArray[np.float32]:
        return self._u


class LogisticUnary(Unary):
    """Energies ``L @ f`` of L (labels, features) and f (features, points)."""

    def __init__(self, L: NDArray[np.float32], f: NDArray[np.float32]) -> None:
        self._l, self._f = _matrix("L", L).copy(), _matrix("f", f).copy()
        if self._l.shape[1] != self._f.shape[0]:
            raise ValueError(f"L {self._l.shape} and f {self._f.shape} cannot be multiplied")

    def _energies(self) -> NDArray[np.float32]:
        return np.asarray(self._l @ self._f)


class _Kernel(NamedTuple):
    lattice: Lattice
    weight: float
    compatibility: Tensor | None
    normalization: str


class DenseCRF:
    """A fully connected CRF over points with features of any kind.

    Args:
        nvar: points.
        nlabels: labels of each.
    """

    def __init__(self, nvar: int, nlabels: int) -> None:
        self._nvar, self._nlabel = int(nvar), int(nlabels)
        if self._nvar < 0 or self._nlabel < 1:
            raise ValueError(f"need at least one label, got {nvar} points and {nlabels} labels")
        self._unary: Tensor | None = None
        self._kernels: list[_Kernel] = []

    def setUnary(self, u: Unary) -> None:
        """Set the energies by an object."""
        if not isinstance(u, Unary):
            raise TypeError(f"u must be a Unary, got {type(u).__name__}")
        energies = u._energies()
        if energies.shape != (self._nlabel, self._nvar):
            raise ValueError(_bad_unary((self._nlabel, self._nvar), energies.shape))
        unary = torch.from_numpy(energies)[None]
        check_energies("setUnaryEnergy", unary)
        self._unary = unary

    def setUnaryEnergy(self, u: NDArray[np.float32], f: NDArray[np.float32] | None = None) -> None:
        """Set the energies (labels, points); or, where f is given, ``u @ f``."""
        if f is not None:
            self.setUnary(LogisticUnary(u, f))
            return
        shape = _matrix("u", u).shape
        if shape != (self._nlabel, self._nvar):
            raise ValueError(_bad_unary((self._nlabel, self._nvar), shape))
        self.setUnary(ConstUnary(u))

    def addPairwiseEnergy(
        self,
        features: NDArray[np.float32],
        compat: Any,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add a Gaussian kernel over features (d, points), each divided by its std.

        Args:
            features: float32.
            compat: a number is the weight of a Potts model, an array a diagonal (labels,) or a
                matrix (labels, labels) of energies, made symmetric.  Numbers in lists are such
                arrays, too.
            kernel: makes no difference to inference.
            normalization: where the kernel is divided by its sums.
        """
        values = _matrix("features", features)
        if values.shape[1] != self._nvar:
            raise ValueError(
                f"Bad shape for pairwise energy (Need (?, {self._nvar}), got {values.shape})"
            )
        tensor = torch.from_numpy(values.T.copy())
        self._add(tensor, compat, kernel, normalization)

    def inference(self, niter: int) -> MatrixXf:
        """Marginals (labels, points) after ``niter`` steps."""
        return MatrixXf.of(self._steps(self._energies(), None, niter)[0].numpy())

    def startInference(self) -> tuple[MatrixXf, MatrixXf, MatrixXf]:
        """Q before the first step, and two empty matrices for :meth:`stepInference`."""
        if self._unary is None:
            q = np.zeros((self._nlabel, self._nvar), np.float32)
        else:
            q = self._steps(self._unary, None, 0)[0].numpy()
        return MatrixXf.of(q), MatrixXf(), MatrixXf()

    def stepInference(self, Q: MatrixXf, tmp1: MatrixXf, tmp2: MatrixXf) -> None:
        """One step; changes Q in place.  tmp1 and tmp2 are pydensecrf's, not needed here."""
        Q[...] = self._steps(self._energies(), self._marginals(Q), 1)[0].numpy()

    def klDivergence(self, Q: MatrixXf) -> float:
        """What the steps minimise, up to a constant; each pair of points counts twice."""
        q, kernels = self._marginals(Q), self._kernels
        kl = float(sum(label_energies(q, self._energies())))
        sent = messages(
            q,
            [k.lattice for k in kernels],
            torch.tensor([k.weight for k in kernels]),
            [k.compatibility for k in kernels],
            [k.normalization for k in kernels],
        )
        for message in sent:
            kl += _float_sum(q * message)
        return kl

    def _add(self, features: Tensor, compat: Any, kernel: int, normalization: int) -> None:
        """features: (points, d)."""
        KernelType(kernel)
        name = _NAMES[NormalizationType(normalization)]
        weight, mu = _compatibility(compat, self._nlabel)
        check_memory(
            "addPairwiseEnergy", 1, self._nvar, self._nlabel, [features.shape[1]], features
        )
        # The SSE code of pydensecrf has them where points are no multiple of four.
        lattice = permutohedral_build(features[None], padding_points=True)
        self._kernels.append(_Kernel(lattice, weight, mu, name))

    def _energies(self) -> Tensor:
        if self._unary is None:
            return torch.zeros(1, self._nlabel, self._nvar)
        return self._unary

    def _marginals(self, Q: MatrixXf) -> Tensor:
        values = np.ascontiguousarray(Q, np.float32)
        if values.shape != (self._nlabel, self._nvar):
            raise ValueError(
                f"Bad shape for Q (Need {(self._nlabel, self._nvar)}, got {values.shape})"
            )
        return torch.from_numpy(values)[None]

    def _steps(self, unary: Tensor, q: Tensor | None, count: int) -> Tensor:
        kernels = self._kernels
        with torch.no_grad():
            return mean_field(
                unary,
                [k.lattice for k in kernels],
                [k.weight for k in kernels],
                [k.compatibility for k in kernels],
                normalization=[k.normalization for k in kernels],
                iterations=max(0, count),
                expnorm="exact",
                initial=q,
            )


class DenseCRF2D(DenseCRF):
    """A fully connected CRF over the pixels of a picture, row by row.

    Args:
        w, h: width and height.
        nlabels: labels of each pixel.
    """

    def __init__(self, w: int, h: int, nlabels: int) -> None:
        super().__init__(int(w) * int(h), nlabels)
        self._w, self._h = int(w), int(h)

    def addPairwiseGaussian(
        self,
        sxy: Any,
        compat: Any,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add a kernel over positions.

        Args:
            sxy: std in pixels, a number or (x, y).
            compat, kernel, normalization: as of :meth:`~DenseCRF.addPairwiseEnergy`.
        """
        xy_std = _stds("sxy", sxy, 2)
        check_memory("addPairwiseGaussian", 1, self._nvar, self._nlabel, [2], torch.empty(0))
        features = spatial_features(self._h, self._w, xy_std)
        self._add(_points(features), compat, kernel, normalization)

    def addPairwiseBilateral(
        self,
        sxy: Any,
        srgb: Any,
        rgbim: NDArray[np.uint8],
        compat: Any,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add a kernel over positions and colours.

        Args:
            sxy: std in pixels, a number or (x, y).
            srgb: std in grey levels, a number or one per channel.
            rgbim: (height, width, 3) uint8.
            compat, kernel, normalization: as of :meth:`~DenseCRF.addPairwiseEnergy`.
        """
        xy_std, rgb_std = _stds("sxy", sxy, 2), _stds("srgb", srgb, 3)
        pixels = typed_array("rgbim", rgbim, np.uint8, 3)
        if pixels.shape[:2] != (self._h, self._w):
            hint = ""
            if pixels.shape[:2] == (self._w, self._h):
                hint = "; width and height are swapped: DenseCRF2D takes width, height, labels"
            need = (self._h, self._w, 3)
            raise ValueError(
                f"Bad shape for pairwise bilateral (Need {need}, got {pixels.shape}){hint}"
            )
        if pixels.shape[2] != 3:
            raise ValueError(
                "addPairwiseBilateral takes pictures of three channels; for others make features"
                " with utils.create_pairwise_bilateral and give them to addPairwiseEnergy"
            )
        check_memory("addPairwiseBilateral", 1, self._nvar, self._nlabel, [5], torch.empty(0))
        image = torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32))[None]
        features = bilateral_features(image, xy_std, rgb_std, dtype=torch.float32)[0]
        self._add(_points(features), compat, kernel, normalization)


def _float_sum(products: Tensor) -> float:
    """The sum of (1, labels, points) in float32, with the roundings of pydensecrf's Eigen.

    It adds up eight running sums, label by label and point by point; of a whole picture that is off
    by 1e-4 of the true sum.
    """
    values = products[0].t().reshape(-1).numpy()
    lanes = values[: len(values) // 8 * 8].reshape(-1, 8).sum(0)
    return float(lanes.sum() + values[lanes.size * (len(values) // 8) :].sum())


def _points(features: Tensor) -> Tensor:
    """(d, H, W) -> (points, d)."""
    return features.flatten(1).t().contiguous()


def _stds(name: str, value: Any, count: int) -> Std:
    given = [value] * count if isinstance(value, (int, float, np.number)) else list(value)
    if len(given) < count:
        raise ValueError(f"{name} must be a number or {count} numbers, got {value}")
    stds = tuple(float(std) for std in given[:count])
    if not all(0 < std < float("inf") for std in stds):
        raise ValueError(f"{name} must be positive, got {value}")
    return stds


def _compatibility(compat: Any, labels: int) -> tuple[float, Tensor | None]:
    """(weight, mu) of what pydensecrf takes for compat: an energy, so that mu has its sign."""
    if isinstance(compat, (int, float, np.number)):
        return float(compat), None
    if is_numbers(compat):
        compat = _rows(compat)
    axes = np.ndim(compat)
    if axes not in (1, 2):
        raise ValueError("LabelCompatibility of dimension >2 not meaningful.")
    values = typed_array("compat", compat, np.float32, axes)
    if values.shape != (labels,) * axes:
        raise ValueError(f"compat must have shape {(labels,) * axes}, got {values.shape}")
    mu = torch.from_numpy(values.copy())
    return 1.0, mu if axes == 1 else 0.5 * (mu + mu.T)


def _rows(compat: Any) -> NDArray[np.float32]:
    try:
        return np.array(compat, np.float32)
    except ValueError:
        raise ValueError(f"compat has rows of different lengths, got {compat}") from None


def _matrix(name: str, value: Any) -> NDArray[np.float32]:
    return typed_array(name, value, np.float32, 2)


def _bad_unary(need: tuple[int, int], got: tuple[int, ...]) -> str:
    hint = "; the axes are swapped: labels come first" if got == need[::-1] else ""
    return f"Bad shape for unary energy (Need {need}, got {got}){hint}"
