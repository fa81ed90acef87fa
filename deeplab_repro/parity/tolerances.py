"""Every tolerance of the project in one place, each with the reason for its size.

Two kinds, because two questions are asked. `AGREEMENT` bounds a whole array against what Caffe
computed (see `compare.agreement`); `CLOSE` bounds single values where the two sides differ only in
the order of their sums (`torch.testing.assert_close`, `numpy.testing.assert_allclose`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerance:
    """Bounds on `Agreement.rel` and `Agreement.max`."""

    rel: float
    max: float
    reason: str


@dataclass(frozen=True)
class Elementwise:
    """``|ours - reference| <= atol + rtol * |reference|`` for each value."""

    rtol: float
    atol: float
    reason: str

    @property
    def kwargs(self) -> dict[str, float]:
        """For `assert_close(a, b, **CLOSE[key].kwargs)`."""
        return {"rtol": self.rtol, "atol": self.atol}


AGREEMENT: dict[str, Tolerance] = {
    "caffe": Tolerance(
        1e-5,
        1e-4,
        "float32 on both sides, sums in another order: a dot product of 4608 terms (3x3 of 512) "
        "rounds to a few 1e-7, and a hundred layers add up to about 1e-6",
    ),
    "tensorflow": Tolerance(
        2e-4,
        2e-4,
        "TensorFlow's own kernels, plain and oneDNN's, differ by up to 5e-5 of a map's deviation "
        "through the layers of Xception-65",
    ),
    "caffe/gradient": Tolerance(
        1e-5,
        1e-4,
        "as the forward pass; weight gradients sum over pixels and pictures in another order",
    ),
    "fused": Tolerance(
        1e-4,
        1e-3,
        "folding BatchNorm and Scale into a convolution rounds each weight once more",
    ),
    "exact": Tolerance(0.0, 0.0, "the same numbers moved or copied, nothing computed"),
}

CLOSE: dict[str, Elementwise] = {
    "float32": Elementwise(1e-5, 1e-6, "single precision, sums of up to a few thousand terms"),
    "float64": Elementwise(1e-10, 1e-12, "double precision, the same sums"),
    "float16": Elementwise(1e-2, 1e-3, "11 bits of mantissa: one rounding is 5e-4"),
    "bfloat16": Elementwise(2e-2, 1e-2, "8 bits of mantissa: one rounding is 4e-3"),
}
