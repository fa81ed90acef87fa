"""Weights that follow from the names of TensorFlow's variables, as in the reference data."""

from __future__ import annotations

import re
import zlib
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deeplab_repro.models.v3.network import DeepLabV3
from deeplab_repro.models.v3.options import ModelOptions
from deeplab_repro.models.v3.variables import to_tensorflow

__all__ = ["made", "weights_for"]

Array = NDArray[Any]

#: What the scales before a sum are multiplied by, so that maps do not grow from unit to unit.
_DAMPED: Final = (
    (r"/bottleneck_v1/conv3/BatchNorm/gamma$", 0.25),
    (r"/lite_bottleneck_v1/conv2/BatchNorm/gamma$", 0.25),
    (r"(entry_flow|middle_flow|exit_flow/block1)/.*conv3_pointwise/BatchNorm/gamma$", 0.15),
    (r"/project/BatchNorm/gamma$", 0.5),
    (r"^resnet_v1_\d+/conv1/BatchNorm/gamma$", 1 / 64),
)


def made(name: str, shape: tuple[int, ...]) -> Array:
    """One variable, float32, in TensorFlow's layout."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    leaf = name.rpartition("/")[2]
    if leaf == "moving_variance":
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    values = random.standard_normal(shape)
    if leaf == "weights":
        values *= np.sqrt(2.0 / np.prod(shape[:3]))
    elif leaf == "depthwise_weights":
        values *= np.sqrt(2.0 / np.prod(shape[:2]))
    elif leaf == "gamma":
        damping = [factor for pattern, factor in _DAMPED if re.search(pattern, name)]
        values = (1 + 0.1 * values) * (damping[0] if damping else 1.0)
    else:
        values *= 0.1
    return values.astype(np.float32)


def weights_for(options: Any) -> dict[str, Array]:
    """Every variable of the network that these options describe."""
    variables = DeepLabV3(ModelOptions.from_case(options)).variables
    return {name: made(name, to_tensorflow(name, value).shape) for name, value in variables.items()}
