"""Recorded runs of the original dense CRF programs: tests/data/crf, made by make_crf_data.py."""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from deeplab_repro.crf import CRFParams

FOLDER = Path(__file__).parents[1] / "data" / "crf"


def names(prefix: str) -> list[str]:
    """Cases whose name starts so."""
    found = sorted(path.stem for path in FOLDER.glob(f"{prefix}*.npz"))
    assert found, f"no recorded case {prefix}*"
    return found


class Case:
    """One recorded run; its arrays as items."""

    def __init__(self, name: str) -> None:
        self.name = name
        with np.load(FOLDER / f"{name}.npz") as file:
            self._arrays = {key: file[key] for key in file}

    def __getitem__(self, key: str) -> np.ndarray:
        return self._arrays[key]

    def __contains__(self, key: str) -> bool:
        return key in self._arrays

    @property
    def rgb(self) -> np.ndarray:
        """(H, W, 3) uint8."""
        return np.ascontiguousarray(cv2.imdecode(self["image"], cv2.IMREAD_COLOR)[:, :, ::-1])

    @property
    def image(self) -> Tensor:
        """(1, 3, H, W) uint8, RGB."""
        return torch.from_numpy(self.rgb).permute(2, 0, 1)[None]

    @property
    def energies(self) -> np.ndarray:
        """(C, ...) float32."""
        kind = np.dtype(str(self["unary_kind"]))
        steps = np.frombuffer(lzma.decompress(self["unary"].tobytes()), kind)
        numbers = steps.reshape(self["unary_shape"]).cumsum(-1, dtype=np.float32)
        return numbers / self["unary_scale"]

    @property
    def unary(self) -> Tensor:
        """(1, C, ...)."""
        return torch.from_numpy(self.energies)[None]

    @property
    def numbers(self) -> dict[str, float]:
        """params by name."""
        return dict(zip(self["param_names"].tolist(), self["params"].tolist(), strict=True))

    @property
    def params(self) -> CRFParams:
        """Of the dl_* and exact_* cases."""
        p = self.numbers
        return CRFParams(
            iterations=int(self["iterations"]),
            pos_w=p["w"],
            pos_xy_std=(p["sx"], p["sy"]),
            bi_w=p["bw"],
            bi_xy_std=(p["bx"], p["by"]),
            bi_rgb_std=(p["br"], p["bg"], p["bb"]),
        )

    @property
    def compatibility(self) -> Tensor | None:
        """The matrix mu of a 2011 run that has one."""
        if "compat_matrix" not in self:
            return None
        return torch.from_numpy(self["compat_matrix"])

    def check(self, q: Any, key: str) -> None:
        """The fair test of marginals (C, ...) at the recorded pixels.

        Two builds of one program differ where a point lies within rounding of a face of its
        simplex, so that a bare maximum is no measure.
        """
        ours = np.asarray(q, np.float64).reshape(len(q), -1)[:, self["pixels"]].T
        differences = np.abs(ours - self[key])
        assert differences.mean() < 1e-5
        far = (differences.max(-1) > 1e-3).sum()
        assert far <= max(1, 1e-4 * len(ours))

    def check_labels(self, labels: Any) -> None:
        """The fair test of labels, all of them."""
        differ = np.asarray(labels) != self["labels"]
        if "margin" in self:
            clear = np.unpackbits(self["margin"], count=differ.size).reshape(differ.shape)
            differ &= clear.astype(bool)
        assert differ.sum() <= 1e-4 * differ.size
