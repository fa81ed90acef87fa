"""The original's training runs, and networks with the weights that these began with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deeplab_repro import tensorflow
from deeplab_repro.models.v3.network import DeepLabV3
from tests.testing.tensorflow_weights import weights_for

__all__ = ["CASES", "TrainingCase"]

DATA: Final = Path(__file__).parents[1] / "data" / "tensorflow" / "training"


class _Mask(nn.Module):
    """Dropout of the values that the original dropped."""

    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        self.kept = kept

    def forward(self, x: Tensor) -> Tensor:
        return x * self.kept / 0.9


@dataclass(frozen=True)
class TrainingCase:
    """One run: its options, what it read, and samples of what it computed."""

    name: str
    about: dict[str, Any]

    @property
    def case(self) -> dict[str, Any]:
        """The options, as the reference has them."""
        found: dict[str, Any] = self.about["case"]
        return found

    @cached_property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Key -> values, see `tests/make_tensorflow_training_data.py`."""
        with np.load(DATA / f"{self.name}.npz") as file:
            return dict(file)

    def batch(self) -> dict[str, Tensor]:
        """Pictures (N, 3, H, W) and labels (N, 1, H, W)."""
        pictures = torch.from_numpy(self.arrays["input"]).permute(0, 3, 1, 2).float()
        labels = torch.from_numpy(self.arrays["labels"]).permute(0, 3, 1, 2)
        return {"data": pictures.contiguous(), "label": labels.contiguous()}

    def net(self) -> DeepLabV3:
        """The network before its first step."""
        net = tensorflow.load(self.case, weights_for(self.case))
        if "dropout_keep_mask" in self.arrays:
            shape = self.about["dropout_shape"]
            bits = np.unpackbits(self.arrays["dropout_keep_mask"])[: np.prod(shape)]
            kept = torch.from_numpy(bits.reshape(shape).astype(np.float32)).permute(0, 3, 1, 2)
            (path,) = (name for name, part in net.named_modules() if isinstance(part, nn.Dropout))
            parent, _, own = path.rpartition(".")
            setattr(net.get_submodule(parent), own, _Mask(kept))
        return net

    def keys(self, prefix: str) -> list[str]:
        """What follows `prefix` in the arrays' names, but for rounding noise."""
        return [
            key.removeprefix(prefix)
            for key, about in self.about["arrays"].items()
            if key.startswith(prefix) and not about.get("rounding_noise")
        ]

    def drawn(self, key: str, array: NDArray[Any]) -> NDArray[np.float64]:
        """The values of an array, in TensorFlow's layout, that were kept of the reference's."""
        stored, values = self.about["arrays"][key]["stored"], array.reshape(-1)
        if stored != "full":
            values = values[np.random.default_rng(0).integers(0, values.size, stored)]
        return values.astype(np.float64)

    def error(self, key: str, array: NDArray[Any]) -> float:
        """2-norm of the difference of these values over that of the reference's."""
        expected = self.arrays[key].astype(np.float64)
        difference = self.drawn(key, array) - expected
        return float(np.linalg.norm(difference) / np.linalg.norm(expected))


CASES: Final = {
    name: TrainingCase(name, about)
    for name, about in json.loads((DATA / "cases.json").read_text()).items()
}
